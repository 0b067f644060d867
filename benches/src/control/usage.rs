//! Memory and processor time of processes, as the kernel counts them in `/proc`.

use std::fs;
use std::path::Path;

use nix::unistd::{SysconfVar, sysconf};

use crate::Error;

/// The resident memory of a process, in MiB.
pub(crate) fn memory(process: u32) -> Result<f64, Error> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(|rest| rest.split_whitespace().next());
    let kib: f64 = kib.and_then(|kib| kib.parse().ok()).ok_or_else(|| unreadable(process))?;
    Ok(kib / 1024.0)
}

/// The processor time that a process has used, in seconds.
pub(crate) fn processor(process: u32) -> Result<f64, Error> {
    Ok(Times::of(process)?.own)
}

/// The process of the PostgreSQL server in a directory.
pub(crate) fn postmaster(directory: &Path) -> Result<u32, Error> {
    let text = fs::read_to_string(directory.join("data/postmaster.pid"))?;
    let first = text.lines().next().unwrap_or_default();
    first.trim().parse().map_err(|_| Error::Unexpected(format!("postmaster.pid begins with {first:?}")))
}

/// The processor time that a process and its children have used, those that have ended included, in seconds.
pub(crate) fn processor_of_family(parent: u32) -> Result<f64, Error> {
    let times = Times::of(parent)?;
    let mut sum = times.own + times.ended_children;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // Some end while they are read: those are missed until their parent has taken note of it.
        if let Ok(times) = Times::of(process)
            && times.parent == parent
        {
            sum += times.own;
        }
    }
    Ok(sum)
}

struct Times {
    parent: u32,
    own: f64,
    ended_children: f64,
}

impl Times {
    fn of(process: u32) -> Result<Self, Error> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name of the program, in parentheses, may hold anything.
        let (_, rest) = stat.rsplit_once(')').ok_or_else(|| unreadable(process))?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |index: usize| -> Result<u32, Error> {
            fields.get(index).and_then(|text| text.parse().ok()).ok_or_else(|| unreadable(process))
        };
        let ticks = ticks_of_a_second()?;
        Ok(Self {
            parent: field(1)?,
            own: f64::from(field(11)? + field(12)?) / ticks,
            ended_children: f64::from(field(13)? + field(14)?) / ticks,
        })
    }
}

fn ticks_of_a_second() -> Result<f64, Error> {
    let ticks = sysconf(SysconfVar::CLK_TCK).map_err(std::io::Error::from)?;
    let ticks = ticks.and_then(|ticks| u32::try_from(ticks).ok());
    Ok(f64::from(ticks.ok_or_else(|| Error::Unexpected("the length of a clock tick is not known".to_owned()))?))
}

fn unreadable(process: u32) -> Error {
    Error::Unexpected(format!("/proc tells nothing readable of process {process}"))
}
