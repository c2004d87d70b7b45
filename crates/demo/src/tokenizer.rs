//! A small byte-level BPE with ChatML's special tokens, trained on the problems and written as a Hugging Face tokenizer.

use crate::Error;
use serde_json::json;
use std::path::Path;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// Ends a turn, and so an answer.
pub const END_OF_TURN: &str = "<|im_end|>";
const START_OF_TURN: &str = "<|im_start|>";
const PADDING: &str = "<|endoftext|>";

/// Words with the blank before them, single digits (a number is then read and written digit by digit, as it is computed
/// with), punctuation, white space.
const PIECES: &str = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+";

/// ChatML. The line break between turns comes before a turn, so that an answer ends with the token that ends it.
const CHAT_TEMPLATE: &str = "\
{%- for message in messages -%}
{{ ('' if loop.first else '\\n') + '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' -%}
{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else -%}
{{ message['content'] + '<|im_end|>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '\\n<|im_start|>assistant\\n' }}
{%- endif -%}
";

/// Trains on `texts` up to `vocabulary` tokens and writes `tokenizer.json`, `tokenizer_config.json` and
/// `chat_template.jinja` to `folder`. Returns the size of the vocabulary, which is smaller where the texts have no more.
///
/// # Errors
/// `Tokenizer` when training fails, `Weights` when a file cannot be written.
pub fn train<'a>(
    folder: &Path,
    texts: impl Iterator<Item = &'a str> + Send,
    vocabulary: usize,
    max_length: usize,
) -> Result<usize, Error> {
    let tokenizer = trained(texts, vocabulary).map_err(|e| Error::Tokenizer(e.to_string()))?;
    let text = tokenizer.to_string(true).map_err(|e| Error::Tokenizer(e.to_string()))?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TURN,
        "pad_token": PADDING,
        "additional_special_tokens": [START_OF_TURN, END_OF_TURN],
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": false,
    });
    weights::write_atomic(&folder.join("tokenizer.json"), text.as_bytes())?;
    weights::write_atomic(&folder.join("tokenizer_config.json"), format!("{config:#}\n").as_bytes())?;
    weights::write_atomic(&folder.join("chat_template.jinja"), CHAT_TEMPLATE.as_bytes())?;
    Ok(tokenizer.get_vocab_size(true))
}

fn trained<'a>(texts: impl Iterator<Item = &'a str> + Send, vocabulary: usize) -> tokenizers::Result<Tokenizer> {
    let pieces = Split::new(SplitPattern::Regex(PIECES.into()), SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(false, true, false);
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![pieces.into(), bytes.into()])));
    tokenizer.with_decoder(Some(bytes));
    let special = [PADDING, START_OF_TURN, END_OF_TURN].map(|token| AddedToken::from(token, true));
    let trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special.into())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts)?;
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problems::Problems;
    use crate::scratch::Scratch;
    use data::{Clock, RenderInput};
    use serde_json::Value;

    fn folder(vocabulary: usize) -> (Scratch, usize) {
        let scratch = Scratch::new();
        let problems = Problems::generate(0, 500, 0).train;
        let texts: Vec<&str> = problems.iter().flat_map(|p| [&p.question[..], &p.solution[..]]).collect();
        let size = train(scratch.path(), texts.into_iter(), vocabulary, 256).unwrap();
        (scratch, size)
    }

    #[test]
    fn words_are_tokens_digits_are_single_and_any_text_comes_back() {
        let (scratch, size) = folder(512);
        let tokenizer = data::Tokenizer::load(scratch.path(), Clock::at(0)).unwrap();
        assert_eq!(size, tokenizer.vocab_size());
        let pieces = |text: &str| -> Vec<String> {
            tokenizer.encode(text, true).unwrap().iter().map(|&id| tokenizer.decode(&[id], false).unwrap()).collect()
        };
        assert_eq!(pieces("48 - 15 = 33."), ["4", "8", " -", " ", "1", "5", " =", " ", "3", "3", "."]);
        assert_eq!(pieces("The answer is 7"), ["The", " answer", " is", " ", "7"]);
        for text in ["Zoë's 3 Äpfel\n\t…  €", "<|im_start|>user\nhi<|im_end|>", ""] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text, true).unwrap(), false).unwrap(), text);
        }
        assert_eq!(tokenizer.special("eos_token"), Some(END_OF_TURN));
        assert_eq!(tokenizer.encode("a<|im_end|>", false).unwrap().last().copied(), tokenizer.eos_id());
    }

    #[test]
    fn conversations_render_as_chatml_and_prompts_are_their_beginnings() {
        let (scratch, _) = folder(400);
        let tokenizer = data::Tokenizer::load(scratch.path(), Clock::at(0)).unwrap();
        let turn = |role: &str, content: &str| -> Value { json!({ "role": role, "content": content }) };
        let messages = [turn("user", "2 + 2?"), turn("assistant", "4.")];
        let render = |messages: &[Value], prompt| {
            tokenizer.render(RenderInput { messages, add_generation_prompt: prompt, ..Default::default() }).unwrap()
        };
        let whole = render(&messages, false);
        assert_eq!(whole, "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n4.<|im_end|>");
        assert_eq!(whole.strip_prefix(&render(&messages[..1], true)), Some("4.<|im_end|>"));
    }

    #[test]
    fn training_twice_gives_the_same_file() {
        let (a, b) = (folder(512).0, folder(512).0);
        let read = |s: &Scratch| std::fs::read(s.path().join("tokenizer.json")).unwrap();
        assert_eq!(read(&a), read(&b));
    }
}
