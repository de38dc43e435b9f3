//! Standard output: a terminal that is drawn over in place, or lines for whoever reads a file.

use std::io::{IsTerminal, Write, stdout};

use super::text::{Colour, Line, Tone};
use super::view::WIDTH_MIN;

/// When the terminal does not tell.
const ROWS: usize = 24;
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const ERASE_TO_END_OF_LINE: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";
const ERASE_ALL: &str = "\x1b[2J\x1b[H";

/// What output can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A terminal: a view is redrawn in place.
    Live,
    /// Anything else: one line after another.
    Plain,
}

/// Where the demo writes. Dropping it gives the terminal its cursor back.
pub(super) struct Screen {
    kind: Kind,
    colour: Colour,
    /// Lines of the view that stand above the cursor, and how wide the terminal was when they were drawn.
    drawn: usize,
    width: usize,
}

impl Screen {
    /// Looks at standard output and at `TERM` and `NO_COLOR` (no-color.org).
    pub(super) fn new() -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_live = stdout().is_terminal() && !is_dumb;
        let wants_none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let (kind, colour) = match (is_live, wants_none) {
            (true, false) => (Kind::Live, Colour::Ansi),
            (true, true) => (Kind::Live, Colour::None),
            (false, _) => (Kind::Plain, Colour::None),
        };
        Self { kind, colour, drawn: 0, width: 0 }
    }

    /// Can a view of this many lines be drawn in place? A terminal that is too low gets plain lines.
    pub(super) fn kind(&self, lines: usize) -> Kind {
        match self.kind {
            Kind::Live if size().1 > lines => Kind::Live,
            Kind::Live | Kind::Plain => Kind::Plain,
        }
    }

    /// Columns of the terminal.
    pub(super) fn columns(&self) -> usize {
        size().0
    }

    /// Writes one line below everything.
    pub(super) fn say(&mut self, line: &Line) {
        let text = line.render(self.colour, usize::MAX);
        self.leave_view();
        put(&format!("{text}\n"));
    }

    /// Writes a line of text without tones.
    pub(super) fn say_plain(&mut self, text: &str) {
        self.say(&Line::default().with(Tone::Plain, text));
    }

    /// Draws the view over the one before.
    pub(super) fn draw(&mut self, lines: &[Line]) {
        let (columns, _) = size();
        let mut out = String::from(HIDE_CURSOR);
        if self.drawn > 0 && columns != self.width {
            // The terminal has wrapped the old lines anew: where they begin is not known any more.
            out.push_str(ERASE_ALL);
        } else if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A\r", self.drawn));
        }
        for line in lines {
            out.push_str(&line.render(self.colour, columns));
            out.push_str(ERASE_TO_END_OF_LINE);
            out.push('\n');
        }
        out.push_str(ERASE_BELOW);
        (self.drawn, self.width) = (lines.len(), columns);
        put(&out);
    }

    /// What follows stands below the view; the view stays as it is.
    fn leave_view(&mut self) {
        if self.drawn > 0 {
            put(SHOW_CURSOR);
            self.drawn = 0;
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave_view();
    }
}

/// Columns and rows.
fn size() -> (usize, usize) {
    let known =
        rustix::termios::tcgetwinsize(stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    known.map_or((WIDTH_MIN, ROWS), |size| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

/// A reader that has gone away is no reason to fail: the demo's result is its exit code.
fn put(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
