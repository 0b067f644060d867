//! Everything that can end a command without success, and the exit code of each.
//!
//! An error is printed once, by `main`, and says what to do next. What a command has told already in a better shape (the
//! problems of definitions, the failure of a run) becomes an error without text, so that only its exit code is left.

use std::io;

use dunlin_proto::status::{Details, TARGET_UNREACHED};
use dunlin_proto::v1::Run;
use tonic::{Code, Status};

use crate::render;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line or a local file is wrong.
    #[error("{0}")]
    Usage(String),
    /// Definitions have problems, which have been printed.
    #[error("")]
    Problems,
    /// No controller can be reached, or the one that was cannot answer, or no agent reaches the target.
    #[error("{0}")]
    Unreachable(String),
    /// Something else has to be done first.
    #[error("{0}")]
    Refused(String),
    /// A migration failed or was cancelled, which has been told.
    #[error("")]
    Failed,
    /// Something that `dev` runs has died or could not be started.
    #[error("{0}")]
    Dev(String),
    /// Ctrl-C.
    #[error("")]
    Interrupted,
    /// Standard output is closed: who reads it has enough.
    #[error("")]
    NoReader,
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
}

impl Error {
    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NoReader => 0,
            Self::Failed | Self::Dev(_) | Self::Output(_) => 1,
            Self::Usage(_) | Self::Problems => 2,
            Self::Unreachable(_) => 3,
            Self::Refused(_) => 4,
            Self::Interrupted => 130,
        }
    }

    /// What a controller's refusal means, with its details one to a line.
    pub(crate) fn from_status(status: &Status) -> Self {
        let text = render::status(status);
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Self::Usage(text),
            Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::ResourceExhausted => Self::Refused(text),
            // The controller answers well; it is the target that cannot be reached.
            Code::Unavailable if Details::of(status).reason == TARGET_UNREACHED => Self::Unreachable(text),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::Unreachable(cannot_answer(text)),
        }
    }

    /// Whether another try can help, for a stream that broke.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Usage(_)
            | Self::Problems
            | Self::Refused(_)
            | Self::Failed
            | Self::Dev(_)
            | Self::Interrupted
            | Self::NoReader
            | Self::Output(_) => false,
        }
    }

    /// The outcome of runs that have ended.
    pub(crate) fn of_runs(runs: &[Run]) -> Result<(), Self> {
        use dunlin_proto::v1::RunState;
        if runs.iter().all(|run| run.state() == RunState::Succeeded) { Ok(()) } else { Err(Self::Failed) }
    }
}

/// That the controller has nothing but this to say. It mostly says whose fault that is.
fn cannot_answer(text: String) -> String {
    let named = ["the controller", "this controller"].iter().any(|who| text.starts_with(who));
    if named { text } else { format!("the controller cannot answer: {text}") }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::from_status(&status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_is_named_once() {
        let told = |text| Error::from_status(&Status::new(Code::Unavailable, text)).to_string();
        assert_eq!(
            told("the controller's database is not available: x"),
            "the controller's database is not available: x"
        );
        assert_eq!(told("transport error"), "the controller cannot answer: transport error");
    }

    #[test]
    fn every_code_of_a_controller_has_its_exit_code() {
        let exit = |code| Error::from_status(&Status::new(code, "x")).exit_code();
        assert_eq!(exit(Code::InvalidArgument), 2);
        assert_eq!(exit(Code::Unavailable), 3);
        assert_eq!(exit(Code::Unimplemented), 3);
        assert_eq!(exit(Code::NotFound), 4);
        assert_eq!(exit(Code::FailedPrecondition), 4);
    }
}
