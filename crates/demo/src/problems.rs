//! Arithmetic word problems from a seed, with the answers a teacher would write.

use data::rng::Stream;
use serde_json::{Value, json};
use std::collections::HashSet;

/// What is asked of one number after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Add,
    Subtract,
    Multiply,
}

impl Operation {
    fn apply(self, a: i64, b: i64) -> i64 {
        match self {
            Operation::Add => a + b,
            Operation::Subtract => a - b,
            Operation::Multiply => a * b,
        }
    }

    fn sign(self) -> char {
        match self {
            Operation::Add => '+',
            Operation::Subtract => '-',
            Operation::Multiply => '*',
        }
    }
}

/// A story with places for a name, a thing and the numbers `{0}`, `{1}`, ...
struct Story {
    text: &'static str,
    /// How each number after the first changes the result so far.
    operations: &'static [Operation],
}

use Operation::{Add, Multiply, Subtract};

const STORIES: [Story; 12] = [
    Story {
        text: "{name} has {0} {things} and finds {1} more. How many {things} does {name} have?",
        operations: &[Add],
    },
    Story {
        text: "{name} buys {0} {things} on Monday and {1} on Friday. How many {things} is that?",
        operations: &[Add],
    },
    Story {
        text: "There are {0} {things} in a box. {name} adds {1}. How many {things} are in the box?",
        operations: &[Add],
    },
    Story {
        text: "{name} has {0} {things} and loses {1} of them. How many {things} are left?",
        operations: &[Subtract],
    },
    Story {
        text: "{name} had {0} {things} and gave away {1}. How many {things} does {name} have?",
        operations: &[Subtract],
    },
    Story { text: "Of {0} {things} {name} sells {1}. How many {things} are left?", operations: &[Subtract] },
    Story { text: "{name} fills {0} bags with {1} {things} each. How many {things} is that?", operations: &[Multiply] },
    Story { text: "There are {0} rows of {1} {things}. How many {things} does {name} see?", operations: &[Multiply] },
    Story {
        text: "{name} has {0} {things}, finds {1} more and loses {2}. How many {things} are left?",
        operations: &[Add, Subtract],
    },
    Story {
        text: "{name} had {0} {things}, gave away {1} and bought {2}. How many {things} does {name} have?",
        operations: &[Subtract, Add],
    },
    Story {
        text: "{name} has {0} boxes of {1} {things} and {2} more. How many {things} is that?",
        operations: &[Multiply, Add],
    },
    Story {
        text: "{name} packs {0} bags of {1} {things} and sells {2}. How many {things} are left?",
        operations: &[Multiply, Subtract],
    },
];

const NAMES: [&str; 12] = ["Ben", "Anna", "Omar", "Lucy", "Ivan", "Mia", "Sam", "Nora", "Leo", "Ruth", "Tom", "Eva"];
const THINGS: [&str; 12] =
    ["stamps", "apples", "books", "coins", "shells", "pens", "cards", "eggs", "cups", "nails", "rings", "balls"];

/// Largest number at the beginning of a sum or difference.
const LARGEST: u64 = 20;
/// Largest number at the beginning of a product.
const LARGEST_COUNT: u64 = 5;
/// Largest of all other numbers, so that a small model can learn to add and subtract them within a minute.
const LARGEST_NEXT: u64 = 9;

/// A question with its worked answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// As the user asks it.
    pub question: String,
    /// As an assistant should answer it: each step worked out, then `The answer is N.`
    pub solution: String,
    /// The number.
    pub answer: i64,
}

/// Problems to learn from and problems to be examined with; no question is in both, none is twice in either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// To learn from.
    pub train: Vec<Problem>,
    /// To be examined with.
    pub held_out: Vec<Problem>,
}

impl Problems {
    /// `train` and `held_out` problems; the same for the same seed and counts.
    pub fn generate(seed: u64, train: usize, held_out: usize) -> Problems {
        let (mut seen, mut index) = (HashSet::new(), 0);
        let mut distinct = |count: usize| {
            let mut problems = Vec::with_capacity(count);
            while problems.len() < count {
                let problem = problem(seed, index);
                index += 1;
                if seen.insert(problem.question.clone()) {
                    problems.push(problem);
                }
            }
            problems
        };
        // Held-out first: it is then the same however many there are to learn from.
        let held_out = distinct(held_out);
        Problems { train: distinct(train), held_out }
    }
}

impl Problem {
    /// The question as a conversation, to be continued.
    pub fn prompt(&self) -> Value {
        json!([{ "role": "user", "content": self.question }])
    }

    /// A row for supervised fine-tuning.
    pub fn sft_row(&self) -> Value {
        json!({ "messages": [
            { "role": "user", "content": self.question },
            { "role": "assistant", "content": self.solution },
        ] })
    }

    /// A row for KTO: what the model answered, and whether that is right.
    pub fn kto_row(&self, completion: &str, label: bool) -> Value {
        json!({ "prompt": self.prompt(), "completion": [{ "role": "assistant", "content": completion }], "label": label })
    }
}

/// Problem number `index` of a seed; questions repeat now and then.
fn problem(seed: u64, index: u64) -> Problem {
    let draw = Stream::new(seed, index);
    let pick = |at: u64, from: u64| draw.below(at, from) as usize;
    let story = &STORIES[pick(0, STORIES.len() as u64)];
    let (name, things) = (NAMES[pick(1, NAMES.len() as u64)], THINGS[pick(2, THINGS.len() as u64)]);
    let mut numbers = vec![match story.operations[0] {
        Multiply => 2 + draw.below(3, LARGEST_COUNT - 1),
        Add | Subtract => 2 + draw.below(3, LARGEST - 1),
    } as i64];
    let (mut result, mut steps) = (numbers[0], Vec::new());
    for (at, &operation) in (4..).zip(story.operations) {
        let number = match operation {
            Add => 2 + draw.below(at, LARGEST_NEXT - 1),
            // Nothing becomes negative.
            Subtract => 1 + draw.below(at, LARGEST_NEXT.min(result as u64)),
            Multiply => 2 + draw.below(at, LARGEST_NEXT - 1),
        } as i64;
        let next = operation.apply(result, number);
        steps.push(format!("{result} {} {number} = {next}.", operation.sign()));
        numbers.push(number);
        result = next;
    }
    let mut question = story.text.replace("{name}", name).replace("{things}", things);
    for (i, number) in numbers.iter().enumerate() {
        question = question.replace(&format!("{{{i}}}"), &number.to_string());
    }
    Problem { question, solution: format!("{} The answer is {result}.", steps.join(" ")), answer: result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_disjoint_reproducible_and_differ_by_seed() {
        let problems = Problems::generate(1, 3000, 400);
        assert_eq!((problems.train.len(), problems.held_out.len()), (3000, 400));
        let questions: HashSet<&str> =
            problems.train.iter().chain(&problems.held_out).map(|p| &p.question[..]).collect();
        assert_eq!(questions.len(), 3400);
        assert_eq!(problems, Problems::generate(1, 3000, 400));
        assert_eq!(problems.held_out, Problems::generate(1, 10, 400).held_out);
        assert_ne!(problems.held_out, Problems::generate(2, 10, 400).held_out);
    }

    #[test]
    fn every_worked_step_is_right_and_ends_in_the_answer() {
        for p in Problems::generate(7, 2000, 0).train {
            assert!(!p.question.contains(['{', '}']) && p.answer >= 0, "{p:?}");
            let (steps, last) = p.solution.split_once(" The answer is ").unwrap();
            assert_eq!(last, format!("{}.", p.answer));
            let mut result = None;
            for step in steps.split_terminator('.') {
                let words: Vec<&str> = step.split_whitespace().collect();
                let [a, sign, b, "=", c] = words[..] else { panic!("{p:?}") };
                let [a, b, c] = [a, b, c].map(|n| n.parse::<i64>().unwrap());
                assert!(result.is_none_or(|r| r == a));
                assert_eq!(
                    c,
                    match sign {
                        "+" => a + b,
                        "-" => a - b,
                        "*" => a * b,
                        _ => panic!("{p:?}"),
                    }
                );
                result = Some(c);
            }
            assert_eq!(result, Some(p.answer));
        }
    }
}
