//! The terminal below the bars: what was drawn is taken away before the next is drawn, whatever has become of its width meanwhile.
//!
//! A terminal that gets narrower wraps what stands on it (tmux and most others do; of those that are known not to, it is not
//! supposed). The library that draws bars takes away as many rows as it has drawn, and fills each of them with spaces to its
//! end, which wrap, too: what was one row is two, and half of it stays. So here rows end where their text ends, and the rows that
//! wrapping has added are taken away with the others.
//!
//! What must stay true: the cursor stands in the last row that was drawn when the library begins anew, as it expects; and at its
//! beginning, where wrapping does not move it against what was drawn before.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use console::{Term, measure_text_width};
use indicatif::TermLike;

/// Takes away what stands behind the cursor in its row, and goes to its beginning.
const REST_OF_ROW: &str = "\x1b[K\r";
/// Takes away the row and all below it.
const REST_OF_SCREEN: &str = "\r\x1b[J";

/// A terminal. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Screen<T = Term> {
    term: T,
    /// Whether the terminal wraps what stands on it when it gets narrower.
    wraps: bool,
    drawn: Arc<Mutex<Drawn>>,
}

/// What was written since the library took away what was there before.
#[derive(Debug, Default)]
struct Drawn {
    /// The width of the terminal at that time.
    width: usize,
    /// How wide each line is.
    lines: Vec<usize>,
    /// Where the next text goes.
    at: At,
    /// How far up the library has moved.
    up: usize,
    /// True once the first of the rows is being taken away.
    clearing: bool,
}

/// Where the next text goes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// To the cursor.
    #[default]
    Cursor,
    /// Behind a line: the spaces to its end.
    Behind,
    /// Into the next row.
    NextRow,
}

impl Screen {
    /// Standard error.
    pub(super) fn stderr() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let console = std::env::var_os("TERM").is_some_and(|term| term == "linux");
        // xterm, GNU screen, and the console of Linux cut rows off.
        let wraps = !(console || set("XTERM_VERSION") || set("STY"));
        Self::new(Term::buffered_stderr(), wraps)
    }
}

impl<T: TermLike> Screen<T> {
    fn new(term: T, wraps: bool) -> Self {
        Self { term, wraps, drawn: Arc::default() }
    }

    /// Moves the cursor into a row of its own: something else writes there next.
    pub(super) fn leave(&self) {
        let mut drawn = self.drawn();
        if std::mem::take(&mut drawn.at) == At::NextRow {
            let _gone_with_the_terminal = self.term.write_str("\r\n").and_then(|()| self.term.flush());
        }
    }

    fn drawn(&self) -> MutexGuard<'_, Drawn> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drawn {
    /// The rows that a narrower terminal has added to the lines above the last.
    fn added(&self, width: usize) -> usize {
        if width == 0 || width >= self.width {
            return 0;
        }
        let above = self.lines.iter().rev().skip(1).take(self.up);
        above.map(|line| line.div_ceil(width).saturating_sub(line.div_ceil(self.width))).sum()
    }
}

impl<T: TermLike> TermLike for Screen<T> {
    fn width(&self) -> u16 {
        self.term.width()
    }

    fn height(&self) -> u16 {
        self.term.height()
    }

    fn move_cursor_up(&self, rows: usize) -> io::Result<()> {
        let mut drawn = self.drawn();
        if !drawn.clearing {
            drawn.up = rows;
        }
        if rows > 0 {
            drawn.at = At::Cursor;
        }
        self.term.move_cursor_up(rows)
    }

    fn move_cursor_down(&self, rows: usize) -> io::Result<()> {
        self.drawn().at = At::Cursor;
        self.term.move_cursor_down(rows)
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.term.move_cursor_right(columns)
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.term.move_cursor_left(columns)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)?;
        self.drawn().at = At::Cursor;
        self.term.write_str("\r\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        let mut drawn = self.drawn();
        if std::mem::take(&mut drawn.clearing) {
            drawn.lines.clear();
        }
        if drawn.at == At::Behind {
            drawn.at = At::NextRow;
            // Where the row is full, the cursor stands on its last character.
            return self.term.write_str(if text.is_empty() { "\r" } else { REST_OF_ROW });
        }
        if drawn.at == At::NextRow {
            self.term.write_str("\r\n")?;
        }
        drawn.at = At::Behind;
        drawn.width = usize::from(self.term.width());
        drawn.lines.push(measure_text_width(text));
        self.term.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        let mut drawn = self.drawn();
        drawn.at = At::Cursor;
        if !std::mem::replace(&mut drawn.clearing, true) && self.wraps {
            let width = usize::from(self.term.width());
            if width < drawn.width {
                self.term.move_cursor_up(drawn.added(width))?;
                return self.term.write_str(REST_OF_SCREEN);
            }
        }
        self.term.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.term.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering};

    use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

    use super::*;

    /// A terminal that wraps what stands on it when it gets narrower: its rows, each with whether the one before goes on in it.
    #[derive(Debug, Clone)]
    struct Fake {
        width: Arc<AtomicU16>,
        grid: Arc<Mutex<Grid>>,
    }

    #[derive(Debug)]
    struct Grid {
        rows: Vec<(String, bool)>,
        row: usize,
        column: usize,
    }

    impl Fake {
        fn new(width: u16) -> Self {
            let grid = Grid { rows: vec![(String::new(), false)], row: 0, column: 0 };
            Self { width: Arc::new(AtomicU16::new(width)), grid: Arc::new(Mutex::new(grid)) }
        }

        /// What can be read, without rows that are empty.
        fn text(&self) -> Vec<String> {
            let grid = self.grid.lock().unwrap();
            let rows = grid.rows.iter().map(|(row, _)| row.trim_end().to_owned());
            rows.filter(|row| !row.is_empty()).collect()
        }

        fn shrink(&self, width: u16) {
            self.width.store(width, Ordering::Relaxed);
            let mut grid = self.grid.lock().unwrap();
            let (rows, row) = (std::mem::take(&mut grid.rows), grid.row);
            for (index, (text, goes_on)) in rows.into_iter().enumerate() {
                if index == row {
                    // The cursor stands at the beginning of its row.
                    assert_eq!(grid.column, 0);
                    grid.row = grid.rows.len();
                }
                let letters: Vec<char> = text.chars().collect();
                let mut parts = letters.chunks(usize::from(width)).map(|part| part.iter().collect::<String>());
                grid.rows.push((parts.next().unwrap_or_default(), goes_on));
                grid.rows.extend(parts.map(|part| (part, true)));
            }
        }

        fn put(&self, letter: char) {
            let width = usize::from(self.width.load(Ordering::Relaxed));
            let mut grid = self.grid.lock().unwrap();
            if grid.column == width {
                (grid.row, grid.column) = (grid.row + 1, 0);
            }
            let (row, column) = (grid.row, grid.column);
            if grid.rows.len() <= row {
                grid.rows.push((String::new(), true));
            }
            let mut letters: Vec<char> = grid.rows[row].0.chars().collect();
            letters.resize(letters.len().max(column + 1), ' ');
            letters[column] = letter;
            grid.rows[row].0 = letters.into_iter().collect();
            grid.column += 1;
        }

        fn control(&self, code: &str) {
            let mut grid = self.grid.lock().unwrap();
            let (row, column) = (grid.row, grid.column);
            match code {
                "\r" => grid.column = 0,
                "\n" => {
                    grid.row += 1;
                    if grid.rows.len() <= grid.row {
                        grid.rows.push((String::new(), false));
                    }
                }
                "\x1b[K" => grid.rows[row].0 = grid.rows[row].0.chars().take(column).collect(),
                "\x1b[J" => grid.rows[row..].iter_mut().for_each(|row| row.0.clear()),
                other => panic!("{other:?}"),
            }
        }
    }

    impl TermLike for Fake {
        fn width(&self) -> u16 {
            self.width.load(Ordering::Relaxed)
        }

        fn height(&self) -> u16 {
            40
        }

        fn move_cursor_up(&self, rows: usize) -> io::Result<()> {
            self.grid.lock().unwrap().row -= rows;
            Ok(())
        }

        fn move_cursor_down(&self, rows: usize) -> io::Result<()> {
            self.grid.lock().unwrap().row += rows;
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, _: &str) -> io::Result<()> {
            Ok(())
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            let mut left = text;
            while let Some(letter) = left.chars().next() {
                let code = ["\r", "\n", "\x1b[K", "\x1b[J"].into_iter().find(|code| left.starts_with(code));
                match code {
                    Some(code) => self.control(code),
                    None => self.put(letter),
                }
                left = &left[code.map_or(letter.len_utf8(), str::len)..];
            }
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.control("\r");
            self.control("\x1b[K");
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn bars(fake: &Fake, count: usize) -> (MultiProgress, Vec<ProgressBar>) {
        let screen = Screen::new(fake.clone(), true);
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::term_like(Box::new(screen)));
        let bars = (0..count).map(|_| all.add(ProgressBar::new_spinner())).collect::<Vec<_>>();
        for (index, bar) in bars.iter().enumerate() {
            bar.set_style(ProgressStyle::with_template("{wide_msg}").unwrap());
            bar.set_message(format!("{index}").repeat(200));
            bar.tick();
        }
        (all, bars)
    }

    #[test]
    fn nothing_is_left_of_bars_when_the_terminal_gets_narrower() {
        for (before, after, count) in [(120, 60, 3), (100, 33, 2), (80, 79, 4), (120, 20, 1)] {
            let fake = Fake::new(before);
            let (all, bars) = bars(&fake, count);
            all.println("a line above").unwrap();
            assert_eq!(fake.text().len(), count + 1, "{:?}", fake.text());
            fake.shrink(after);
            for bar in &bars {
                bar.tick();
            }
            let text = fake.text();
            assert_eq!((text.len(), text[0].as_str()), (count + 1, "a line above"), "{before} to {after}: {text:?}");
            for bar in &bars {
                bar.finish_and_clear();
            }
            all.clear().unwrap();
            assert_eq!(fake.text(), ["a line above"], "{before} to {after}");
        }
    }

    #[test]
    fn lines_without_bars_stand_below_each_other() {
        let fake = Fake::new(40);
        let (all, _) = bars(&fake, 0);
        for line in ["one", "", "two"] {
            all.println(line).unwrap();
        }
        assert_eq!(fake.text(), ["one", "two"]);
        assert_eq!(fake.grid.lock().unwrap().rows.len(), 3);
    }
}
