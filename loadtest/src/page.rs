//! `loadtest page`: what runs wrote into folders, as one HTML file that needs nothing else: tables, charts, the machine.
//!
//! It reads what `bench`, `hitless` and `failover` write with `--out` (CSV, JSON, Markdown, SVG) and computes nothing:
//! the page says what the files say.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use crate::bench::{BenchError, Result};
use crate::picture::escape;

/// Which results, and where to.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A folder with results; repeatable. Default: those of target/bench, target/hitless and target/failover that exist.
    #[arg(long = "from")]
    from: Vec<PathBuf>,
    /// The file to write; its folder is made where it is missing.
    #[arg(long, default_value = "target/report/index.html")]
    out: PathBuf,
}

/// Bytes of one file at most: what is larger is named and left out.
const FILE_BYTES_MAX: u64 = 8 << 20;

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#111}\
h1{font-size:1.6em}h2{border-bottom:1px solid #999;margin-top:2em}table{border-collapse:collapse;font-size:13px;margin:1em 0}\
th,td{border:1px solid #bbb;padding:2px 7px;text-align:right}th{background:#eee}td:first-child,th:first-child,td:nth-child(2)\
{text-align:left}pre{background:#f5f5f5;padding:1em;overflow-x:auto;font-size:12px}svg{max-width:100%;height:auto}\
dt{font-weight:bold}dd{margin:0 0 .4em 1em}.void{border:2px solid #c00;padding:.3em 1em}\
@media print{svg,table{break-inside:avoid}h2{break-after:avoid}}";

/// Writes the page and says where it is.
///
/// # Errors
/// A named folder cannot be read, there are no results at all, or the page cannot be written.
pub(crate) fn run(options: &Options) -> Result<()> {
    let usual = ["target/bench", "target/hitless", "target/failover"].map(PathBuf::from);
    let from: Vec<PathBuf> = if options.from.is_empty() {
        usual.into_iter().filter(|folder| folder.is_dir()).collect()
    } else {
        options.from.clone()
    };
    let folders = from.iter().map(|path| Folder::read(path)).collect::<Result<Vec<_>>>()?;
    if folders.iter().all(|folder| folder.files.is_empty()) {
        return Err(BenchError::failed(
            "page",
            "no results: run bench, hitless or failover with --out first",
        ));
    }
    if let Some(parent) = options.out.parent() {
        fs::create_dir_all(parent).map_err(BenchError::io(format!("create {}", parent.display())))?;
    }
    fs::write(&options.out, page(&folders))
        .map_err(BenchError::io(format!("write {}", options.out.display())))?;
    println!("{}", options.out.display());
    Ok(())
}

/// One folder of results.
struct Folder {
    name: String,
    /// By name.
    files: Vec<(String, Content)>,
}

/// What a file is to a reader.
enum Content {
    /// A chart, inline.
    Picture(String),
    /// Lines of fields.
    Table(String),
    /// As it is.
    Text(String),
    /// Of which the machine and the reasons against the run are shown.
    Report(Value),
    /// Larger than [`FILE_BYTES_MAX`].
    TooLarge,
}

impl Folder {
    fn read(path: &Path) -> Result<Self> {
        let failed = || BenchError::io(format!("read {}", path.display()));
        let mut files = Vec::new();
        for entry in fs::read_dir(path).map_err(failed())? {
            let file = entry.map_err(failed())?.path();
            let kind = file.extension().and_then(OsStr::to_str).unwrap_or_default().to_owned();
            if !["svg", "csv", "md", "json"].contains(&kind.as_str()) {
                continue;
            }
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if fs::metadata(&file).map_err(failed())?.len() > FILE_BYTES_MAX {
                files.push((name, Content::TooLarge));
                continue;
            }
            let text = fs::read_to_string(&file).map_err(failed())?;
            files.push((name, content(&kind, text)));
        }
        files.sort_by(|one, other| one.0.cmp(&other.0));
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { name, files })
    }
}

impl Folder {
    fn has(&self, file: &str) -> bool {
        self.files.iter().any(|(name, _)| name == file)
    }
}

fn content(kind: &str, text: String) -> Content {
    match kind {
        "svg" => Content::Picture(text),
        "csv" => Content::Table(text),
        "json" => match serde_json::from_str(&text) {
            Ok(report) => Content::Report(report),
            Err(_) => Content::Text(text),
        },
        _ => Content::Text(text),
    }
}

fn page(folders: &[Folder]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Ringway, measured</title>\
         <style>{STYLE}</style></head>\n<body>\n<h1>Ringway, measured</h1>\n\
         <p>Ratios carry over to other machines, absolute figures do not. Whiskers are the lowest and the highest round.</p>\n"
    );
    for folder in folders {
        writeln!(out, "<h2>{}</h2>", escape(&folder.name)).expect("writing to a string");
        // The conditions first, then the figures, then the charts.
        let rank = |content: &Content| match content {
            Content::Report(_) => 0,
            Content::Text(_) => 1,
            Content::Table(_) => 2,
            Content::Picture(_) => 3,
            Content::TooLarge => 4,
        };
        let mut files: Vec<_> = folder.files.iter().collect();
        files.sort_by_key(|(_, content)| rank(content));
        for (name, content) in files {
            match content {
                Content::Report(report) => conditions(&mut out, report),
                Content::Table(csv) => table(&mut out, csv),
                // It is the end of the report, too.
                Content::Text(_) if name == "table.md" && folder.has("report.md") => {}
                Content::Text(text) => prose(&mut out, text),
                // Made by this program: no script, no reference to elsewhere (see `is_harmless`).
                Content::Picture(svg) if is_harmless(svg) => out.push_str(svg),
                Content::Picture(_) | Content::TooLarge => {
                    writeln!(out, "<p>{} is not shown here.</p>", escape(name)).expect("writing to a string");
                }
            }
        }
    }
    out.push_str("</body>\n</html>\n");
    out
}

/// Nothing in it runs or is fetched: no element or attribute that could, and no `on…=` of any kind.
fn is_harmless(svg: &str) -> bool {
    let low = svg.to_ascii_lowercase();
    let has_handler = low.split(" on").skip(1).any(|rest| {
        // "on a new connection" is text; `onload=` is an attribute.
        let name = rest.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        name.trim_start().starts_with('=')
    });
    let is_bad = ["<script", "href", "<foreignobject", "<!"].iter().any(|bad| low.contains(bad));
    svg.starts_with("<svg ") && !has_handler && !is_bad
}

/// The machine, why the run must not be believed, and what was measured otherwise than asked for.
fn conditions(out: &mut String, report: &Value) {
    if let Some(machine) = report.get("machine").and_then(Value::as_object) {
        out.push_str("<dl>\n");
        for (name, value) in machine {
            let text = value
                .as_array()
                .map_or_else(|| plain(value), |all| all.iter().map(plain).collect::<Vec<_>>().join("; "));
            let name = name.replace('_', " ");
            writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(&name), escape(&text))
                .expect("writing to a string");
        }
        out.push_str("</dl>\n");
    }
    let void = report.get("void").and_then(Value::as_array);
    for reason in void.into_iter().flatten() {
        writeln!(out, "<p class=\"void\">Void: {}</p>", escape(&plain(reason))).expect("writing to a string");
    }
    let notes = report.get("notes").and_then(Value::as_array);
    for note in notes.into_iter().flatten() {
        writeln!(out, "<p>Note: {}</p>", escape(&plain(note))).expect("writing to a string");
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The first line names the columns.
fn table(out: &mut String, csv: &str) {
    out.push_str("<table>\n");
    for (at, line) in csv.lines().enumerate() {
        let cell = if at == 0 { "th" } else { "td" };
        let cells: String = fields(line)
            .map(|field| {
                let field = if at == 0 { field.replace('_', " ") } else { field };
                format!("<{cell}>{}</{cell}>", escape(&field))
            })
            .collect();
        writeln!(out, "<tr>{cells}</tr>").expect("writing to a string");
    }
    out.push_str("</table>\n");
}

/// Fields of a line; one in quotes may hold commas (RFC 4180).
fn fields(line: &str) -> impl Iterator<Item = String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields.into_iter()
}

/// Text whose lines stay lines, but for the tables in it (Markdown's, with a line of dashes below the heading).
fn prose(out: &mut String, text: &str) {
    let is_row = |line: &&str| line.starts_with('|');
    let lines: Vec<&str> = text.lines().collect();
    for block in lines.chunk_by(|one, next| is_row(one) == is_row(next)) {
        if is_row(&block[0]) {
            rows(out, block);
        } else if block.iter().any(|line| !line.trim().is_empty()) {
            let text = block.iter().map(|line| escape(line)).collect::<Vec<_>>().join("\n");
            writeln!(out, "<pre>{}</pre>", text.trim_matches('\n')).expect("writing to a string");
        }
    }
}

fn rows(out: &mut String, block: &[&str]) {
    out.push_str("<table>\n");
    let is_rule = |line: &str| line.bytes().all(|byte| b"|-: ".contains(&byte));
    for (at, line) in block.iter().filter(|line| !is_rule(line)).enumerate() {
        let cell = if at == 0 { "th" } else { "td" };
        let fields = line.trim_matches('|').split('|');
        let cells: String =
            fields.map(|field| format!("<{cell}>{}</{cell}>", escape(field.trim()))).collect();
        writeln!(out, "<tr>{cells}</tr>").expect("writing to a string");
    }
    out.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Axis, Chart, Guide, Panel, Scale};

    fn folder(files: Vec<(&str, Content)>) -> Folder {
        let files = files.into_iter().map(|(name, content)| (name.to_owned(), content)).collect();
        Folder { name: "bench".to_owned(), files }
    }

    #[test]
    fn a_page_holds_the_machine_the_tables_and_the_pictures_and_needs_nothing_else() {
        let report = serde_json::json!({ "machine": { "cpu": "A & B", "versions": ["x", "y"] }, "void": ["too noisy"],
            "notes": ["not measured: <4 cores"] });
        let page = page(&[folder(vec![
            ("a.svg", Content::Picture("<svg a=\"1\"><text>on a new connection</text></svg>".to_owned())),
            ("b.csv", Content::Table("case,cpu_us\nh1-64,\"1,5\"\n".to_owned())),
            ("c.json", Content::Report(report)),
            ("d.md", Content::Text("one <\ntwo\n\n| a | b |\n|---|---|\n| 1 | x < y |\n\nthree".to_owned())),
        ])]);
        for part in [
            "<dd>A &amp; B</dd>",
            "<dd>x; y</dd>",
            "Void: too noisy",
            "<th>cpu us</th>",
            "<td>1,5</td>",
            "Note: not measured: &lt;4 cores",
            "<pre>one &lt;\ntwo</pre>",
            "<tr><th>a</th><th>b</th></tr>\n<tr><td>1</td><td>x &lt; y</td></tr>\n</table>",
            "<pre>three</pre>",
            "<svg a=\"1\">",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(!page.contains("src=") && !page.contains("<script") && !page.contains("<link"));
    }

    #[test]
    fn a_picture_that_could_run_or_fetch_something_is_named_and_left_out() {
        for svg in [
            "<svg onload=\"x()\"></svg>",
            "<svg ><script>x</script></svg>",
            "<svg ><image href=\"http://a\"/></svg>",
            "<svg ><g onclick = \"x\"/></svg>",
            "<div>no svg</div>",
        ] {
            let page = page(&[folder(vec![("a.svg", Content::Picture(svg.to_owned()))])]);
            assert!(!page.contains(svg) && page.contains("a.svg is not shown"), "{svg}");
        }
        assert!(is_harmless("<svg a=\"b\"><text>requests on one connection</text></svg>"));
    }

    #[test]
    fn own_charts_are_harmless() {
        let axis = |label: &str| Axis::new(label, Scale::Linear);
        let mut panel = Panel::alone(Vec::new());
        (panel.name, panel.note) = ("on two".into(), "on 3 = on 4".into());
        let chart = Chart {
            title: "one".into(),
            about: "on".into(),
            x: axis("on a"),
            y: axis("b"),
            guides: vec![Guide::Upright(0.0, "on a guide".into()), Guide::Level(1.0, "on".into())],
            panels: vec![panel],
        };
        assert!(is_harmless(&chart.svg()));
    }
}
