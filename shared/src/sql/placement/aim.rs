//! How a change finds the rows of its table: by `:batch` itself, or by a join with rows of the batch.

/// How a change finds its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aim {
    /// True when `:batch` stands for the very reference whose rows are changed.
    pub restricted: bool,
    /// Columns of the changed table that are compared for equality with columns of rows of the batch.
    pub(super) pairs: Vec<Pair>,
    /// True when the statement calls nothing as a `:batch` beside the change says: the server has another word on that.
    pub(super) unknown: bool,
    /// Columns that may be those of the changed table and are compared for equality with whatever.
    pub(super) compared: Vec<String>,
}

/// A column that equals one of a row of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// The column of the changed table.
    pub(super) target: String,
    /// Which row, where a statement has several, and its column.
    pub(super) origin: Origin,
}

/// A column of a row of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Which of the references that `:batch` restricts.
    pub(super) instance: usize,
    /// The column.
    pub(super) column: String,
}

impl Aim {
    /// True when all rows of the walked table that it changes lie in the batch, if these columns are the key.
    #[must_use]
    pub fn is_within(&self, key: &[String]) -> bool {
        let joined = |instance: usize| {
            key.iter().all(|column| {
                self.pairs.iter().any(|pair| {
                    pair.origin.instance == instance && pair.target == *column && pair.origin.column == *column
                })
            })
        };
        self.restricted || !key.is_empty() && self.pairs.iter().any(|pair| joined(pair.origin.instance))
    }

    /// False when rows outside of the batch are changed, if these columns are the key: not all of them are compared with anything. An
    /// empty key is one that is not known.
    #[must_use]
    pub fn may_be_within(&self, key: &[String]) -> bool {
        self.restricted
            || self.unknown
            || !self.compared.is_empty() && key.iter().all(|column| self.compared.iter().any(|name| name == column))
    }
}
