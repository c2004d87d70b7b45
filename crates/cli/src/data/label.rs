//! `data label`: labels by a rule, and undesirable rows where there are none.

use super::convert::{print, written, wrote};
use super::source::{self, Goal, ReadingArgs, Source};
use crate::failure::Failure;
use crate::meter::{Meter, Unit};
use crate::output;
use crate::screen::Screen;
use clap::{Args, ValueEnum};
use data::tools::label::{Labelled, Rule};
use data::tools::negatives::{Made, Negative};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// `prospect data label`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect data label answers.jsonl kto.jsonl --gold answer
  prospect data label answers.jsonl kto.jsonl --regex '(?i)####\\s*-?\\d+\\s*$'
  prospect data label answers.jsonl kto.jsonl --scores scores.jsonl --threshold 0.5
  prospect data label sft.jsonl kto.jsonl --make-negatives=changed-answer,truncated

--gold compares final answers (behind ####, in \\boxed{}, after \"answer is\", else the last number) as text and as numbers.
--make-negatives puts an undesirable row behind each desirable one and says in `source` how it was made.")]
pub(crate) struct LabelArgs {
    /// Files, patterns, folders, registered names, or org/name on the Hub.
    #[arg(value_name = "IN", required = true)]
    inputs: Vec<PathBuf>,
    /// What is written; must not exist.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    rule: RuleArgs,
    /// With --scores: the least score of a desirable completion.
    #[arg(long, value_name = "X", default_value_t = 0.5, allow_negative_numbers = true)]
    threshold: f64,
    /// With --min-length: also at most so many characters.
    #[arg(long, value_name = "N", requires = "min_length")]
    max_length: Option<usize>,
    /// Of the draws of --make-negatives.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Print what was done as a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct RuleArgs {
    /// Desirable: the final answer is that of this field of the row.
    #[arg(long, value_name = "FIELD")]
    gold: Option<String>,
    /// Desirable: the pattern is found in the completion.
    #[arg(long, value_name = "PATTERN")]
    regex: Option<String>,
    /// Desirable: at least so many characters (see --max-length).
    #[arg(long, value_name = "N")]
    min_length: Option<usize>,
    /// Desirable: line n of this file, a number or an object with `score`, is at least --threshold for completion n.
    #[arg(long, value_name = "FILE")]
    scores: Option<PathBuf>,
    /// Make undesirable rows of these kinds in turn [default: all].
    #[arg(long, value_name = "KINDS", num_args = 0..=1, value_delimiter = ',', require_equals = true,
          default_missing_values = ["other-row", "changed-answer", "truncated"])]
    make_negatives: Option<Vec<Kind>>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// The answer to another prompt.
    OtherRow,
    /// Another number as the final answer.
    ChangedAnswer,
    /// The answer cut off in its middle.
    Truncated,
}

impl Kind {
    fn negative(self) -> Negative {
        match self {
            Kind::OtherRow => Negative::OtherRow,
            Kind::ChangedAnswer => Negative::ChangedAnswer,
            Kind::Truncated => Negative::Truncated,
        }
    }
}

/// `prospect data label`
pub(crate) fn label(args: &LabelArgs, screen: &Screen) -> Result<u8, Failure> {
    let Source { files, options } = source::open(&args.inputs, &args.reading, Some(Goal::Kto), screen)?;
    let rule = rule(args)?;
    let mut meter = Meter::new(screen, "labelling", Unit::Bytes)?;
    let mut tell = |done, total| meter.tell(done, total);
    match rule {
        Some(rule) => {
            let done = data::tools::label::label(&files, &args.output, &rule, &options, &mut tell)?;
            drop(meter);
            labelled(&done, args.json)?;
        }
        None => {
            let kinds = args.rule.make_negatives.iter().flatten().map(|kind| kind.negative());
            let kinds: Vec<Negative> = kinds.collect();
            let done =
                data::tools::negatives::make_negatives(&files, &args.output, (&kinds, args.seed), &options, &mut tell)?;
            drop(meter);
            made(&done, args.json)?;
        }
    }
    Ok(0)
}

/// The rule that was given; `None` for negatives.
fn rule(args: &LabelArgs) -> Result<Option<Rule>, Failure> {
    let RuleArgs { gold, regex, min_length, scores, .. } = &args.rule;
    Ok(match (gold, regex, min_length, scores) {
        (Some(field), ..) => Some(Rule::Gold { field: field.clone() }),
        (_, Some(pattern), ..) => Some(Rule::matches(pattern)?),
        (_, _, Some(min), _) => Some(Rule::Length { min: *min, max: args.max_length.unwrap_or(usize::MAX) }),
        (.., Some(file)) => Some(Rule::Scores { file: file.clone(), threshold: args.threshold }),
        _ => None,
    })
}

fn labelled(done: &Labelled, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&json!({
            "rows_read": done.rows_read, "desirable": done.desirable, "undesirable": done.undesirable,
            "changed": done.changed, "without_answer": done.without_answer, "written": written(std::slice::from_ref(&done.written)),
        }));
    }
    let mut facts = vec![
        ("rows read".to_owned(), done.rows_read.to_string()),
        ("labels".to_owned(), format!("{} true, {} false", done.desirable, done.undesirable)),
    ];
    if done.changed > 0 {
        facts.push(("changed".to_owned(), format!("{} had another label before", done.changed)));
    }
    if done.without_answer > 0 {
        facts.push(("without answer".to_owned(), format!("{}, labelled false", done.without_answer)));
    }
    facts.push(wrote(&done.written));
    print(facts)
}

fn made(done: &Made, json: bool) -> Result<(), Failure> {
    if json {
        let kinds: Map<String, Value> =
            done.made.iter().map(|(kind, count)| (kind.name().to_owned(), json!(count))).collect();
        return output::json(&json!({
            "desirable": done.desirable, "undesirable": done.undesirable, "made": kinds, "without": done.without,
            "written": written(std::slice::from_ref(&done.written)),
        }));
    }
    let mut facts = vec![("desirable".to_owned(), format!("{} rows, kept", done.desirable))];
    if done.undesirable > 0 {
        facts.push(("undesirable".to_owned(), format!("{} rows, kept", done.undesirable)));
    }
    facts.extend(done.made.iter().map(|(kind, count)| (kind.name().to_owned(), format!("{count} rows made"))));
    if done.without > 0 {
        facts.push(("without".to_owned(), format!("of {} rows none could be made", done.without)));
    }
    facts.push(wrote(&done.written));
    print(facts)
}
