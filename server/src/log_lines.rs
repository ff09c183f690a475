//! The daemon's log: one event, one line, whatever is in it.
//!
//! Much of what is logged was sent by somebody: names, paths, texts of other programs. A line break in it would let its
//! sender write lines of the log, and other control characters would hide or change what a terminal shows. Here every event
//! passes that is written, so no place that logs has to think of it.

use std::io::{self, Write};

/// Writes each event, which comes in one piece, as one line without characters that a terminal would obey.
#[derive(Debug)]
pub(crate) struct LogLines<W> {
    to: W,
    /// Colours are wanted, which are such characters. What is logged has none of its own then: whoever writes the colours
    /// has written them out.
    colours: bool,
}

impl<W: Write> LogLines<W> {
    /// To `to`, with colours or without.
    pub(crate) fn new(to: W, colours: bool) -> Self {
        Self { to, colours }
    }

    fn is_obeyed(&self, c: char) -> bool {
        let separates = ['\u{2028}', '\u{2029}'].contains(&c);
        (c.is_control() || separates) && !(self.colours && c == '\u{1b}')
    }
}

impl<W: Write> Write for LogLines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        if !line.contains(|c| self.is_obeyed(c)) {
            self.to.write_all(event)?;
            return Ok(event.len());
        }
        let mut plain = String::with_capacity(line.len() + 16);
        for c in line.chars() {
            if self.is_obeyed(c) {
                plain.extend(c.escape_default());
            } else {
                plain.push(c);
            }
        }
        plain.push('\n');
        self.to.write_all(plain.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(colours: bool, event: &str) -> String {
        let mut to = Vec::new();
        let mut lines = LogLines::new(&mut to, colours);
        lines.write_all(event.as_bytes()).expect("written");
        String::from_utf8(to).expect("text")
    }

    #[test]
    fn an_event_is_a_line() {
        assert_eq!(written(false, "a line\n"), "a line\n");
        assert_eq!(
            written(false, "name=a\nERROR all is lost\r\u{1b}[2J\u{85}\n"),
            "name=a\\nERROR all is lost\\r\\u{1b}[2J\\u{85}\n"
        );
        assert_eq!(written(true, "\u{1b}[31mred\n\n"), "\u{1b}[31mred\\n\n");
    }
}
