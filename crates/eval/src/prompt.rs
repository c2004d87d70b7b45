//! Prompts, as the Qwen2.5-Math evaluation harness and OpenSeek's fork of it write them, and the texts that end an answer.

use crate::Error;

/// How a question is put to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptType {
    /// `Question: ... Answer:`, for base models.
    Cot,
    /// The same, with another separator of examples; without examples the same prompt, but no stop at a new question.
    Direct,
    /// ChatML, the instruction after the question.
    QwenBoxed,
    /// ChatML, the instruction as the system's turn.
    Qwen25MathCot,
    /// `User: ... Assistant:`.
    DeepseekMath,
    /// The question and the instruction, nothing else.
    Mathstral,
    /// ChatML with an empty system turn, the instruction before the question.
    OpenseekSft,
    /// ChatML with a system turn about thinking; the answer begins with `<think>`.
    R1,
}

const BOXED: &str = "Please reason step by step, and put your final answer within \\boxed{}.";
const THINKING: &str = "You are a helpful assistant. To answer the user's question, you first think about the reasoning \
                        process and then provide the user with the answer. The reasoning process and answer are enclosed \
                        within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process \
                        here </think> <answer> answer here </answer>.";

impl PromptType {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Cot,
        Self::Direct,
        Self::QwenBoxed,
        Self::Qwen25MathCot,
        Self::DeepseekMath,
        Self::Mathstral,
        Self::OpenseekSft,
        Self::R1,
    ];

    /// The harness's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cot => "cot",
            Self::Direct => "direct",
            Self::QwenBoxed => "qwen-boxed",
            Self::Qwen25MathCot => "qwen25-math-cot",
            Self::DeepseekMath => "deepseek-math",
            Self::Mathstral => "mathstral",
            Self::OpenseekSft => "openseek_sft",
            Self::R1 => "r1",
        }
    }

    /// The prompt type of that name.
    ///
    /// # Errors
    /// [`Error::UnknownPromptType`] with the names there are.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| Error::UnknownPromptType { name: name.to_owned() })
    }

    /// The prompt for a question, without blanks at its ends (a model continues badly after one).
    pub fn prompt(self, question: &str) -> String {
        let chat = |system: &str, user: &str| {
            let system =
                if system.is_empty() { String::new() } else { format!("<|im_start|>system\n{system}<|im_end|>\n") };
            format!("{system}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n")
        };
        let text = match self {
            Self::Cot | Self::Direct => format!("Question: {question}\nAnswer: "),
            Self::QwenBoxed => chat("You are a helpful assistant.", &format!("{question}\n{BOXED}")),
            Self::Qwen25MathCot => chat(BOXED, question),
            Self::DeepseekMath => format!("User: {question}\n{BOXED}\n\nAssistant:"),
            Self::Mathstral => format!("{question}\n{BOXED}"),
            Self::OpenseekSft => {
                format!("<|im_start|>system\n<|im_end|>\n{}", chat("", &format!("{BOXED}\nQuestion:\n{question}")))
            }
            Self::R1 => format!("{}<think>", chat(THINKING, question)),
        };
        text.trim_matches(' ').to_owned()
    }

    /// Texts at which an answer ends; they are not part of it.
    pub fn stops(self) -> &'static [&'static str] {
        const ALL: [&str; 5] = ["</s>", "<|im_end|>", "<|endoftext|>", "\n\nQuestion:", "\nQuestion:"];
        if self == Self::Cot { &ALL } else { &ALL[..3] }
    }

    /// `text` up to the first of the stop texts that stands in it, and whether one did.
    pub fn cut(self, text: &str) -> (&str, bool) {
        let end = self.stops().iter().filter_map(|stop| text.find(stop)).min();
        (text[..end.unwrap_or(text.len())].trim(), end.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_those_of_the_harness() {
        let cases = [
            (PromptType::Cot, "Question: 1+1?\nAnswer:"),
            (
                PromptType::QwenBoxed,
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n1+1?\nPlease reason step by \
                 step, and put your final answer within \\boxed{}.<|im_end|>\n<|im_start|>assistant\n",
            ),
            (
                PromptType::OpenseekSft,
                "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nPlease reason step by step, and put your final answer \
                 within \\boxed{}.\nQuestion:\n1+1?<|im_end|>\n<|im_start|>assistant\n",
            ),
        ];
        for (kind, expected) in cases {
            assert_eq!(kind.prompt("1+1?"), expected, "{}", kind.name());
            assert_eq!(PromptType::from_name(kind.name()).unwrap(), kind);
        }
        assert!(PromptType::R1.prompt("?").ends_with("<|im_start|>assistant\n<think>"));
        assert_eq!(PromptType::from_name("cott").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn an_answer_ends_at_the_first_stop_text() {
        assert_eq!(PromptType::Cot.cut(" 2\nQuestion: 2+2?</s>"), ("2", true));
        assert_eq!(PromptType::QwenBoxed.cut(" 2\nQuestion: 2+2?</s>"), ("2\nQuestion: 2+2?", true));
        assert_eq!(PromptType::Cot.cut("2 "), ("2", false));
    }
}
