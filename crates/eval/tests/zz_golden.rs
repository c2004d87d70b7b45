use serde_json::Value;
const D: &str = "/work/shared/golden/grader/";
fn rows(f: &str) -> Vec<Value> { std::fs::read_to_string(format!("{D}{f}")).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect() }
#[test]
fn normalise_golden() {
    let r = rows("normalise.jsonl"); let mut bad = 0;
    for x in &r { let i = x["input"].as_str().unwrap(); let o = eval::grader::normalise(i, x["skip_unit"].as_bool().unwrap());
      if o != x["output"].as_str().unwrap() { bad += 1; if bad < 15 { println!("{i:?} got {o:?} want {}", x["output"]); } } }
    println!("normalise bad {bad} of {}", r.len());
    let r = rows("extraction.jsonl"); let mut bad = 0;
    let t = std::time::Instant::now();
    for x in &r { let i = x["generation"].as_str().unwrap(); let o = eval::grader::extract(i, x["dataset"].as_str().unwrap()).normalised;
      if o != x["extracted"].as_str().unwrap() { bad += 1; if bad < 15 { println!("{:?} {i:.80?} got {o:?} want {}", x["dataset"], x["extracted"]); } } }
    println!("extraction bad {bad} of {} in {:?}", r.len(), t.elapsed());
}

use eval::grader::*;
fn run(mode: Mode, key: &str) {
    let r = rows("equal.jsonl"); let (mut bad, mut n, mut fa, mut slow) = (0, 0, 0, std::time::Duration::ZERO);
    let mut times = vec![];
    for x in &r {
        let want = match x[key].as_bool() { Some(w) => w, None => continue };
        let (p, g) = (x["pred"].as_str().unwrap(), x["gold"].as_str().unwrap());
        let a = if x["wrap"] == "raw" { Answer::Generation(p) } else { Answer::Pred(p) };
        let t = std::time::Instant::now();
        let v = grade(&Row { gold: g, dataset: x["dataset"].as_str(), answer: a }, mode);
        let d = t.elapsed(); times.push(d); if d > slow { slow = d; }
        if d.as_millis() > 25 { println!("SLOW {d:?} {p:.100} | {g:.100}"); }
        n += 1;
        if v.verdict != want { bad += 1; if v.verdict { fa += 1; } println!("want {want} rule {} {p:.90?} [{:.60}] | {g:.80?} {} {}", v.rule.name(), v.normalised, x["gold_norm"].as_str().unwrap_or(""), x["source"].as_str().unwrap()); }
    }
    times.sort();
    println!("{mode:?} {key}: wrong {bad} of {n} ({:.2} %), accepted wrong {fa} ({:.2} %), slowest {slow:?}, median {:?}", 100.0 * (n - bad) as f64 / n as f64, 100.0 * fa as f64 / n as f64, times[n / 2]);
}
#[test] fn strict_golden() { run(Mode::Strict, "label"); }
#[test] fn qwen_golden() { run(Mode::Qwen, "qwen_pipeline"); }
#[test] fn gold_norm_golden() {
    let mut bad = 0;
    for x in rows("equal.jsonl") { if x["gold"].as_str().unwrap().len() > 3000 { continue; }
        let g = x["gold"].as_str().unwrap(); let want = x["gold_norm"].as_str().unwrap_or(g);
        let got = normalise_gold(g, x["dataset"].as_str().unwrap_or("olympiadbench"));
        if got != want { bad += 1; if bad < 10 { println!("{} {g:?} got {got:?} want {want:?}", x["dataset"]); } } }
    println!("gold_norm bad {bad}");
}
#[test] fn strict_expected() { run(Mode::Strict, "expected"); }
#[test] fn strict_recorded() { run(Mode::Strict, "recorded"); }
