//! Chat templates by name, for models whose tokenizer has none and for recipes that bring their own.

/// A template that comes with this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name by which it is asked for.
    pub name: &'static str,
    /// Its Jinja source; answers are marked with `{% generation %}`.
    pub source: &'static str,
    /// The token that ends an answer; `None`: the tokenizer's end of sequence.
    pub stop: Option<&'static str>,
}

/// Every template, in the order in which they are listed to users.
pub const ALL: [Named; 7] = [
    Named { name: "chatml", source: include_str!("../../templates/chatml.jinja"), stop: Some("<|im_end|>") },
    Named { name: "qwen", source: include_str!("../../templates/qwen.jinja"), stop: Some("<|im_end|>") },
    Named { name: "llama3", source: include_str!("../../templates/llama3.jinja"), stop: Some("<|eot_id|>") },
    Named { name: "mistral", source: include_str!("../../templates/mistral.jinja"), stop: None },
    Named { name: "deepseek", source: include_str!("../../templates/deepseek.jinja"), stop: None },
    Named { name: "gpt-oss", source: include_str!("../../templates/gpt-oss.jinja"), stop: Some("<|return|>") },
    Named { name: "AM-thinking", source: include_str!("../../templates/am-thinking.jinja"), stop: Some("<|im_end|>") },
];

/// The template of that name, in whatever case, with `-` and `_` alike; also under other programs' names for the same.
pub fn find(name: &str) -> Option<Named> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_'], "");
    let name = match plain(name).as_str() {
        "gpt" | "harmony" => "gptoss".to_owned(),
        "deepseek3" | "deepseekr1" => "deepseek".to_owned(),
        "qwen25" | "qwen2.5" | "qwen2" => "qwen".to_owned(),
        other => other.to_owned(),
    };
    ALL.into_iter().find(|template| plain(template.name) == name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::Clock;
    use crate::template::{ChatTemplate, RenderInput};

    fn render(name: &str, add_generation_prompt: bool) -> (String, Vec<String>) {
        let specials = vec![("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())];
        let template = ChatTemplate::new(find(name).unwrap().source, specials, Clock::at(0)).unwrap();
        let messages = json!([
            {"role": "system", "content": "S"}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"},
            {"role": "assistant", "content": "d"}
        ]);
        let turns = messages.as_array().unwrap();
        let messages = if add_generation_prompt { &turns[..4] } else { turns };
        let input = RenderInput { messages, add_generation_prompt, ..RenderInput::default() };
        let (text, ranges) = template.render_with_ranges(input).unwrap();
        let written = ranges.iter().map(|r| text[r.clone()].to_owned()).collect();
        (text, written)
    }

    #[test]
    fn every_template_writes_its_marks_and_nothing_else() {
        let chatml = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n";
        for name in ["chatml", "qwen", "AM-thinking"] {
            assert_eq!(render(name, false).0, chatml, "{name}");
        }
        let header = |role: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
        let (s, u, a) = (header("system"), header("user"), header("assistant"));
        let llama = format!("<s>{s}S<|eot_id|>{u}a<|eot_id|>{a}b<|eot_id|>{u}c<|eot_id|>{a}d<|eot_id|>");
        assert_eq!(render("llama3", false).0, llama);
        assert_eq!(render("mistral", false).0, "<s>[INST] S\n\na[/INST] b</s>[INST] c[/INST] d</s>");
        assert_eq!(render("deepseek", false).0, "<s>S<｜User｜>a<｜Assistant｜>b</s><｜User｜>c<｜Assistant｜>d</s>");
        let oss = render("gpt-oss", false).0;
        assert!(oss.contains("Current date: 1970-01-01\n\nReasoning: medium\n\n"), "{oss}");
        assert!(oss.ends_with("<|start|>assistant<|channel|>final<|message|>b<|end|><|start|>user<|message|>c<|end|><|start|>assistant<|channel|>final<|message|>d<|return|>"), "{oss}");
    }

    #[test]
    fn what_is_asked_for_is_a_prefix_of_what_is_answered() {
        for template in ALL {
            let ((asked, _), (answered, written)) = (render(template.name, true), render(template.name, false));
            let rest = answered.strip_prefix(&asked).unwrap_or_else(|| panic!("{}: {asked}", template.name));
            assert_eq!(written.len(), 2);
            assert!(rest.starts_with(&written[1]), "{}: {rest:?} {written:?}", template.name);
            assert!(written[1].trim_end().ends_with(template.stop.unwrap_or("</s>")), "{}: {written:?}", template.name);
        }
    }

    #[test]
    fn am_thinking_brings_the_recipe_s_system_text() {
        let template = ChatTemplate::new(find("am_thinking").unwrap().source, Vec::new(), Clock::at(0)).unwrap();
        let messages = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
        let input = RenderInput { messages: messages.as_array().unwrap(), ..RenderInput::default() };
        let text = template.render(input).unwrap();
        assert!(text.starts_with(
            "<|im_start|>system\nYou are a helpful assistant. To answer the user's question, you first think about"
        ));
        assert!(text.ends_with("<answer> answer here </answer>.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"));
    }

    #[test]
    fn names_are_found_however_they_are_spelt() {
        assert!(["GPT_OSS", "gpt", "Am-Thinking", "ChatML"].into_iter().all(|name| find(name).is_some()));
        assert_eq!(find("no such"), None);
    }
}
