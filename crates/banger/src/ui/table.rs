//! Tables for people: left-aligned columns, two spaces apart, no lines.

use super::sanitize;
use comfy_table::{Table, presets};

/// Something that can stand in a table.
pub(crate) trait Tabular {
    /// The columns' headings.
    const HEADINGS: &'static [&'static str];

    /// The cells, one a heading. They are sanitised by whoever shows them.
    fn cells(&self) -> Vec<String>;

    /// What `--quiet` prints.
    fn id(&self) -> String;

    /// What people call it.
    fn name(&self) -> String;
}

/// The table of `rows`, each line ended by a line break. Without rows only the headings.
pub(crate) fn render<T: Tabular>(rows: &[T]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(T::HEADINGS.iter().copied());
    for row in rows {
        table.add_row(row.cells().iter().map(|cell| sanitize::line(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut out = String::new();
    for line in table.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(&'static str, &'static str);

    impl Tabular for Pair {
        const HEADINGS: &'static [&'static str] = &["NAME", "STATE"];
        fn cells(&self) -> Vec<String> {
            vec![self.0.into(), self.1.into()]
        }
        fn id(&self) -> String {
            self.0.into()
        }
        fn name(&self) -> String {
            self.0.into()
        }
    }

    #[test]
    fn columns_line_up_and_cells_cannot_break_out() {
        let rows = [Pair("dev", "running"), Pair("longer-name", "a\nb\x1b[2J")];
        assert_eq!(
            render(&rows),
            "NAME         STATE\ndev          running\nlonger-name  a\\nb\\x1b[2J\n"
        );
        assert_eq!(render::<Pair>(&[]), "NAME  STATE\n");
    }
}
