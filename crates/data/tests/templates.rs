//! Chat templates: the parts of Jinja in which engines differ, each on a template of our own.

use data::error::TemplateErrorKind;
use data::template::{ChatTemplate, RenderInput};
use data::{Clock, error::TemplateError};
use serde_json::{Value as Json, json};

/// Renders `template` for a conversation of `messages` with some variables.
fn render_with(template: &str, messages: &Json, extra: &Json) -> Result<String, TemplateError> {
    let specials = vec![("bos_token".to_owned(), "<s>".to_owned())];
    let template = ChatTemplate::new(template, specials, Clock::at(951_782_400))?;
    template.render(RenderInput {
        messages: messages.as_array().unwrap(),
        tools: extra.get("tools"),
        documents: None,
        add_generation_prompt: true,
        extra: extra.get("kwargs").and_then(Json::as_object),
    })
}

fn render(template: &str) -> Result<String, TemplateError> {
    render_with(template, &json!([{"role": "user", "content": "hi"}]), &json!({}))
}

#[test]
fn blocks_take_their_line_with_them() {
    assert_eq!(render("a\n  {% if true %}\n  b\n  {% endif %}\nc\n").unwrap(), "a\n  b\nc");
    assert_eq!(render("a\n  {%+ if true %}x{% endif +%}\nb").unwrap(), "a\n  x\nb");
    assert_eq!(render("a \n {{- 'b' -}} \n c").unwrap(), "abc");
}

#[test]
fn values_print_as_python_prints_them() {
    let values = "{{ [1, 'a', none, true, 2.0] }} {{ {'k': 'v'} }} {{ none }} {{ true }} {{ 7 // 2 }} {{ 'é'|length }}";
    assert_eq!(render(values).unwrap(), "[1, 'a', None, True, 2.0] {'k': 'v'} None True 3 1");
    assert_eq!(render("{{ undefined_name }}|{{ 'abc'[::-1] }}|{{ 'a-b'.split('-') }}").unwrap(), "|cba|['a', 'b']");
}

#[test]
fn tojson_writes_what_python_writes() {
    let value = json!({"kwargs": {"v": {"b": "<é\"\u{1}🙂>", "a": [1, 2.5, null, true, {}], "f": 1e-7, "g": 1e16, "h": 123456.0}}});
    let with = |template: &str| render_with(template, &json!([]), &value).unwrap();
    assert_eq!(
        with("{{ v | tojson }}"),
        r#"{"b": "<é\"\u0001🙂>", "a": [1, 2.5, null, true, {}], "f": 1e-07, "g": 1e+16, "h": 123456.0}"#
    );
    assert_eq!(with("{{ v.a | tojson(indent=2) }}"), "[\n  1,\n  2.5,\n  null,\n  true,\n  {}\n]");
    assert_eq!(with("{{ v.b | tojson(ensure_ascii=true) }}"), r#""<\u00e9\"\u0001\ud83d\ude42>""#);
    assert_eq!(
        with("{{ {'b': 1, 'a': [2, 3]} | tojson(separators=(',', ':'), sort_keys=true) }}"),
        r#"{"a":[2,3],"b":1}"#
    );
}

#[test]
fn loops_can_be_left_and_skipped_and_namespaces_outlive_them() {
    let template = "{% set ns = namespace(n=0) %}{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}\
                    {% if i == 5 %}{% break %}{% endif %}{% set ns.n = ns.n + i %}{{ i }}{% endfor %}={{ ns.n }}";
    assert_eq!(render(template).unwrap(), "0134=8");
    let guarded = "{% for k, v in {'in': [1, 2]}.items() if k != 'for' %}{{ k }}{% for x in (v or []) %}{{ x }}{% endfor %}{% else %}none{% endfor %}";
    assert_eq!(render(guarded).unwrap(), "in12");
}

#[test]
fn a_template_that_loops_over_no_tools_fails_as_it_does_elsewhere() {
    let template = "{% for tool in tools %}{{ tool.name }}{%- endfor -%}";
    assert_eq!(render(template).unwrap_err().kind, TemplateErrorKind::Type);
    assert_eq!(render_with(template, &json!([]), &json!({"tools": [{"name": "t"}]})).unwrap(), "t");
    assert_eq!(render("{% if tools is none and tools is defined %}no{% endif %}").unwrap(), "no");
    assert_eq!(render("{% for x in never_set %}{{ x }}{% else %}empty{% endfor %}").unwrap(), "empty");
}

#[test]
fn generators_are_no_json_until_they_are_listed() {
    let tools = json!({"tools": [{"name": "t", "on": true}, {"name": "u", "on": false}]});
    let with = |template: &str| render_with(template, &json!([]), &tools);
    assert_eq!(with("{{ tools | map(attribute='name') | tojson }}").unwrap_err().kind, TemplateErrorKind::Type);
    assert_eq!(with("{{ tools | map(attribute='name') | list | tojson }}").unwrap(), r#"["t", "u"]"#);
    assert_eq!(with("{{ tools | selectattr('on') | map(attribute='name') | join(',') }}").unwrap(), "t");
    assert_eq!(with("{{ tools | rejectattr('on', 'equalto', true) | list | length }}").unwrap(), "1");
}

#[test]
fn safe_strings_escape_what_they_are_joined_with() {
    assert_eq!(render("{{ '<a>'|safe + '<b> & \"c\"' }}").unwrap(), "<a>&lt;b&gt; &amp; &#34;c&#34;");
    assert_eq!(render("{{ '<a>'|safe }}{{ '<b>' }}{{ ('<c>'|safe)|tojson }}").unwrap(), "<a><b>\"<c>\"");
}

#[test]
fn dates_come_from_the_clock_of_the_run() {
    assert_eq!(render("{{ strftime_now('%d %b %Y') }}").unwrap(), "29 Feb 2000");
}

#[test]
fn special_tokens_and_row_variables_are_seen() {
    let kwargs = json!({"kwargs": {"enable_thinking": false}});
    let template =
        "{{ bos_token }}{% if enable_thinking is defined and not enable_thinking %}<off>{% endif %}{{ eos_token }}";
    assert_eq!(render_with(template, &json!([]), &kwargs).unwrap(), "<s><off>");
}

#[test]
fn reasoning_is_found_under_each_of_its_names() {
    let template = "{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}";
    let with = |turn: Json| render_with(template, &json!([turn]), &json!({})).unwrap();
    assert_eq!(with(json!({"role": "assistant", "content": "", "reasoning": "r"})), "r|r");
    assert_eq!(with(json!({"role": "assistant", "content": "", "thinking": "t"})), "t|t");
    assert_eq!(with(json!({"role": "assistant", "content": ""})), "|");
}

#[test]
fn generation_blocks_give_the_ranges_of_what_they_wrote() {
    let source = "{% for m in messages %}\n  {%- if m.role == 'assistant' %}\n[{%- generation -%}\n {{ m.content }}\n{%- endgeneration %}]\n  {% else %}{{ m.content }}{% endif %}\n{% endfor %}{# {% generation %} #}{{ '{% generation %}' }}";
    let template = ChatTemplate::new(source, Vec::new(), Clock::at(0)).unwrap();
    assert!(template.marks_generation());
    let messages = json!([{"role": "user", "content": "né"}, {"role": "assistant", "content": "ü🙂"}, {"role": "assistant", "content": ""}]);
    let input = RenderInput { messages: messages.as_array().unwrap(), ..RenderInput::default() };
    let (text, ranges) = template.render_with_ranges(input).unwrap();
    assert_eq!(text, template.render(input).unwrap());
    let written: Vec<&str> = ranges.iter().map(|r| &text[r.clone()]).collect();
    assert_eq!(written, ["ü🙂", ""]);
    assert!(text.ends_with("{% generation %}"), "{text}");
    let plain = ChatTemplate::new("{{ '{% generation %}' }}", Vec::new(), Clock::at(0)).unwrap();
    assert!(!plain.marks_generation());
}

#[test]
fn failures_are_told_apart() {
    let kind = |template: &str| render(template).unwrap_err().kind;
    assert_eq!(kind("{% if %}"), TemplateErrorKind::Syntax);
    assert_eq!(kind("{{ messages.no.such }}"), TemplateErrorKind::Type);
    assert_eq!(kind("{{ 1 + 'a' }}"), TemplateErrorKind::Type);
    let error = render("a\n{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert_eq!((error.kind, error.line, error.reason.as_str()), (TemplateErrorKind::Raised, 2, "roles must alternate"));
    let marked =
        render_with("{{ messages[0].content }}", &json!([{"role": "user", "content": "a\u{fdd0}"}]), &json!({}));
    assert_eq!(marked.unwrap_err().kind, TemplateErrorKind::Type);
}

#[test]
fn a_template_cannot_run_or_write_for_ever() {
    let forever = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    assert_eq!(render(forever).unwrap_err().kind, TemplateErrorKind::Limit);
    let endless = "{% set s = 'x' * 1000000 %}{% for a in range(1000) %}{{ s }}{% endfor %}";
    assert_eq!(render(endless).unwrap_err().kind, TemplateErrorKind::Limit);
}

#[test]
fn no_step_of_a_template_asks_for_more_than_there_is() {
    // Each of these would fill memory or the stack in one step, before fuel is asked.
    let steps = [
        "{{ '%1000000000000d' | format(1) }}",
        "{{ '%.1000000000000f' | format(1.5) }}",
        "{{ '{:>1000000000000}'.format(1) }}",
        "{{ 'a\nb' | indent(1000000000000) }}",
        "{{ 'a\nb' | indent(width=2**63) }}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = [{'b': ns}] %}{{ ns | tojson }}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(99999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s == [ns.s] }}",
        "{% set ns = namespace(s={}) %}{% for i in range(99999) %}{%- set ns.s = {'a': ns.s} -%}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(9999) %}{% set ns.s = [ns.s] | map('string') %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}",
    ];
    for step in steps {
        assert_eq!(render(step).unwrap_err().kind, TemplateErrorKind::Limit, "{step}");
    }
    let chains = [
        ("{{ 1", "+1", " }}"),
        ("{{ 'a'", "|upper", " }}"),
        ("{{ 'a'", "~'a'", " }}"),
        ("{{ a", ".b", " }}"),
        ("{{ a", "()", " }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ ", "-", "1 }}"),
        ("{{ 1", " if 1 else 2", " }}"),
        ("{{ 1", " and 1", " }}"),
        ("{{ 1", "**1", " }}"),
        ("{% if 0 %}", "{% elif 0 %}", "{% endif %}"),
        ("{{ (1", "+1)+(1", ") }}"),
        ("{% set a = [1] %}", "{% set a = [a] %}", "{{ a }}"),
    ];
    for (head, link, tail) in chains {
        let chain = |links| render(&format!("{head}{}{tail}", link.repeat(links)));
        assert_eq!(chain(100_000).unwrap_err().kind, TemplateErrorKind::Limit, "{link}");
        // What is allowed is rendered or refused, and does not fill the stack of a test's thread.
        (40..400).step_by(60).for_each(|links| _ = chain(links));
    }
}

#[test]
fn what_variables_keep_is_what_they_were_given() {
    let template = "{% set a, b = 1, [2] %}{%- set c = b + [a] if b else 'no' -%}{% set ns = namespace(x='=') %}\
                    {% set ns.x = {'k': \"it's = }\"}.k ~ ns.x %}{% set d %}={{ c }}{% endset %}{% set e = none_such %}\
                    {% set f = messages | map(attribute='role') %}{{ a }}{{ ns.x }}{{ d }}{{ e is defined }}{{ f | list }}";
    assert_eq!(render(template).unwrap(), "1it's = }==[2, 1]False['user']");
    let spoken = "{{ '%05.1f|%s' | format(2.25, 'é') }}{{ '{:>4}|{}'.format(1, 2) }}{{ 'a\nb' | indent(2, true) }}";
    assert_eq!(render(spoken).unwrap(), "002.2|é   1|2  a\n  b");
}
