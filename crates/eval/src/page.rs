//! Pages to read answers: one for each task, and an overview. No scripts; what models and data say is text, never markup.

use crate::files::write;
use crate::marks::Marked;
use crate::metrics::Metrics;
use crate::stats::Estimate;
use crate::{Error, Marks, RunFiles};
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}\
table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}\
td:first-child,th:first-child{text-align:left}details{border:1px solid #ddd;border-radius:4px;margin:.4em 0;padding:.3em .7em}\
summary{cursor:pointer}pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f6f6;padding:.7em;border-radius:4px}\
code{background:#f6f6f6;padding:0 .3em}.wrong{color:#b00020}.right{color:#0a7a2f}\
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre,code{background:#262626}\
table td,table th,details{border-color:#444}.wrong{color:#ff7a85}.right{color:#6fcf8a}}";

/// Text with nothing left in it that is markup.
struct Plain<'a>(&'a str);

impl Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

type Out = BufWriter<File>;

fn head(out: &mut Out, title: &str) -> std::io::Result<()> {
    writeln!(
        out,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>{0}</title><style>{STYLE}</style><h1>{0}</h1>",
        Plain(title)
    )
}

fn percent(x: f64) -> String {
    format!("{:.2} %", 100.0 * x)
}

fn with_interval(e: &Estimate) -> String {
    format!("{} <small>({:.2} to {:.2})</small>", percent(e.value), 100.0 * e.low, 100.0 * e.high)
}

/// Writes the page of a task: its wrong answers, then those that the two graders disagree on.
pub(crate) fn answers(files: &RunFiles, marks: &Marks, metrics: &Metrics) -> Result<(), Error> {
    let all_right = |row: &Marked| row.marks.iter().all(|mark| mark.qwen.verdict);
    let disagree = |row: &Marked| row.marks.iter().any(|mark| mark.qwen.verdict != mark.strict.verdict);
    let wrong: Vec<&Marked> = marks.rows.iter().filter(|row| !all_right(row)).collect();
    let disputed: Vec<&Marked> = marks.rows.iter().filter(|row| all_right(row) && disagree(row)).collect();
    write(&files.page(), |out| {
        head(out, &format!("{}: answers", marks.task))?;
        table(out, &[(marks.task.clone(), None, metrics.clone())])?;
        section(out, "Wrong", &wrong)?;
        section(out, "Right for the harness, wrong by strict grading", &disputed)
    })
}

fn section(out: &mut Out, title: &str, rows: &[&Marked]) -> std::io::Result<()> {
    writeln!(out, "<h2>{title} ({})</h2>", rows.len())?;
    rows.iter().try_for_each(|row| one(out, row))
}

fn one(out: &mut Out, row: &Marked) -> std::io::Result<()> {
    let shown = row.marks.iter().position(|mark| !mark.qwen.verdict || !mark.strict.verdict).unwrap_or(0);
    let (mark, sample) = (&row.marks[shown], &row.samples[shown]);
    let right = row.marks.iter().filter(|mark| mark.qwen.verdict).count();
    writeln!(
        out,
        "<details><summary>#{} &middot; gold <code>{}</code> &middot; answered <code>{}</code> &middot; {} tokens, {}{}</summary>",
        row.item.idx,
        Plain(&row.item.gold.answer),
        Plain(&mark.qwen.normalised),
        sample.tokens,
        sample.finish.name(),
        if row.marks.len() > 1 { format!(" &middot; {right} of {} right", row.marks.len()) } else { String::new() },
    )?;
    let verdict = |right: bool| if right { "<b class=right>right</b>" } else { "<b class=wrong>wrong</b>" };
    writeln!(out, "<p>Question<pre>{}</pre>", Plain(&row.item.question))?;
    writeln!(out, "<p>Answer {}<pre>{}</pre>", shown + 1, Plain(&sample.text))?;
    writeln!(
        out,
        "<p>Found <code>{}</code>. Harness: {} ({}); strict: {} ({}).",
        Plain(&mark.qwen.extracted),
        verdict(mark.qwen.verdict),
        mark.qwen.rule.name(),
        verdict(mark.strict.verdict),
        mark.strict.rule.name()
    )?;
    if row.marks.len() > 1 {
        let all: Vec<String> =
            row.marks.iter().map(|m| format!("<code>{}</code>", Plain(&m.qwen.normalised))).collect();
        writeln!(out, "<p>All answers: {}", all.join(" "))?;
    }
    if !row.item.gold.solution.is_empty() {
        writeln!(out, "<p>Solution<pre>{}</pre>", Plain(&row.item.gold.solution))?;
    }
    writeln!(out, "</details>")
}

fn table(out: &mut Out, rows: &[(String, Option<String>, Metrics)]) -> std::io::Result<()> {
    writeln!(
        out,
        "<table><tr><th>benchmark<th>rows<th>accuracy (95 %)<th>strict (95 %)<th>tokens<th>cut off<th>empty</tr>"
    )?;
    for (name, link, metrics) in rows {
        let name = match link {
            Some(link) => format!("<a href=\"{}\">{}</a>", Plain(link), Plain(name)),
            None => Plain(name).to_string(),
        };
        writeln!(
            out,
            "<tr><td>{name}<td>{}<td>{}<td>{}<td>{:.0}<td>{}<td>{}</tr>",
            metrics.num_samples,
            with_interval(&metrics.mean_acc),
            with_interval(&metrics.strict_acc),
            metrics.tokens.mean,
            percent(metrics.truncated),
            metrics.empty_samples
        )?;
    }
    writeln!(out, "</table>")
}

/// Writes `index.html` to `output`: a table of the tasks, each with a link to its answers.
///
/// # Errors
/// The file cannot be written.
pub fn overview(output: &Path, title: &str, tasks: &[(String, RunFiles, Metrics)]) -> Result<(), Error> {
    let link = |files: &RunFiles| {
        let page = files.page();
        page.strip_prefix(output).ok().map(|page| page.to_string_lossy().into_owned())
    };
    let rows: Vec<_> =
        tasks.iter().map(|(name, files, metrics)| (name.clone(), link(files), metrics.clone())).collect();
    write(&output.join("index.html"), |out| {
        head(out, title)?;
        table(out, &rows)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_becomes_markup() {
        let text = Plain("<script>alert('&\"')</script>").to_string();
        assert_eq!(text, "&lt;script&gt;alert(&#39;&amp;&quot;&#39;)&lt;/script&gt;");
    }
}
