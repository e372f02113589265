//! Text for a terminal: aligned columns, nothing cut, no colour, and no character from elsewhere that a terminal obeys.

use serde_json::Value;

/// Space between columns.
const GAP: &str = "  ";

/// Characters that a terminal obeys or hides instead of showing: control, format and line-separating ones.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` with what a terminal would obey written out, as `\u{1b}`.
///
/// Why not `domain::observation::clean`: it cuts, and an answer is shown whole.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

/// JSON as it came, on one line. Control characters stand in it as white space only; what else a terminal would obey
/// can only be part of a text, where it is written as JSON writes it.
pub fn one_line(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.trim().chars() {
        if c.is_ascii_control() && c != '\u{7f}' {
            shown.push(' ');
        } else if is_obeyed(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Rows under headings. A column with nothing in it is left out.
pub struct Table<const N: usize> {
    headings: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub fn new(headings: [&'static str; N]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)));
    }

    fn lines(&self) -> Vec<String> {
        let width = |cell: &str| cell.chars().count();
        let mut widths = [0; N];
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = width(cell).max(*widest);
            }
        }
        let line = |cells: &[&str; N]| {
            let mut line = String::new();
            for ((cell, heading), widest) in
                cells.iter().zip(self.headings).zip(widths).filter(|(_, widest)| *widest > 0)
            {
                let padding = widest.max(width(heading)) - width(cell);
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', padding));
                line.push_str(GAP);
            }
            line.trim_end().to_owned()
        };
        let headings = std::iter::once(line(&self.headings));
        headings.chain(self.rows.iter().map(|row| line(&row.each_ref().map(String::as_str)))).collect()
    }

    /// Prints the rows, or `nothing` when there are none.
    pub fn print(&self, nothing: &str) {
        if self.rows.is_empty() {
            say!("{nothing}");
            return;
        }
        for line in self.lines() {
            say!("{line}");
        }
    }
}

/// Prints what is known of one thing, a fact a line; facts without a value are left out.
pub fn print_facts(facts: &[(&str, String)]) {
    let known = || facts.iter().filter(|(_, value)| !value.is_empty());
    let widest = known().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in known() {
        say!("  {name:<widest$}{GAP}{}", printable(value));
    }
}

/// A member of a JSON object as text; empty when it is absent or `null`.
pub fn text(object: &Value, member: &str) -> String {
    match object.get(member) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The texts of a list in a JSON object; empty when it is absent.
pub fn texts(object: &Value, member: &str) -> Vec<String> {
    let list = object.get(member).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub fn is_true(object: &Value, member: &str) -> bool {
    object.get(member).and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_what_is_in_them_and_empty_ones_are_left_out() {
        let mut table = Table::new(["NAME", "CRITICAL", "URL"]);
        table.row(["a-long-name".to_owned(), String::new(), "http://é".to_owned()]);
        table.row(["b".to_owned(), String::new(), String::new()]);
        assert_eq!(table.lines(), ["NAME         URL", "a-long-name  http://é", "b"]);
        table.row(["ü".to_owned(), "yes".to_owned(), "x".to_owned()]);
        assert_eq!(table.lines().last().map(String::as_str), Some("ü            yes       x"));
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(printable("a\x1b[2J\r\nb\u{202e}\u{9b}c"), "a\\u{1b}[2J\\u{d}\\u{a}b\\u{202e}\\u{9b}c");
        let long = "x".repeat(5000);
        assert_eq!(printable(&long), long);
    }

    #[test]
    fn json_keeps_its_meaning_on_one_line() {
        let came = "{\n\t\"a\": \"\u{9b}\u{7f}\u{202e}\u{e0041}é\",\r\n \"b\": 1.50}\n";
        let line = one_line(came);
        assert!(!line.chars().any(is_obeyed), "{line}");
        assert!(line.contains("1.50"), "{line}");
        let read = |text: &str| serde_json::from_str::<Value>(text).ok();
        assert!(read(came).is_some());
        assert_eq!(read(&line), read(came));
    }
}
