use serde_json::Value;
const D: &str = "/work/shared/golden/grader/";
fn rows(f: &str) -> Vec<Value> {
    std::fs::read_to_string(format!("{D}{f}")).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}
#[test]
fn normalise_golden() {
    let r = rows("normalise.jsonl");
    let mut bad = 0;
    for x in &r {
        let i = x["input"].as_str().unwrap();
        let o = eval::grader::normalise(i, x["skip_unit"].as_bool().unwrap());
        if o != x["output"].as_str().unwrap() {
            bad += 1;
            if bad < 15 {
                println!("{i:?} got {o:?} want {}", x["output"]);
            }
        }
    }
    println!("normalise bad {bad} of {}", r.len());
    let r = rows("extraction.jsonl");
    let mut bad = 0;
    let t = std::time::Instant::now();
    for x in &r {
        let i = x["generation"].as_str().unwrap();
        let o = eval::grader::extract(i, x["dataset"].as_str().unwrap()).normalised;
        if o != x["extracted"].as_str().unwrap() {
            bad += 1;
            if bad < 15 {
                println!("{:?} {i:.80?} got {o:?} want {}", x["dataset"], x["extracted"]);
            }
        }
    }
    println!("extraction bad {bad} of {} in {:?}", r.len(), t.elapsed());
}

use eval::grader::*;
fn cpu() -> u64 {
    std::fs::read_to_string("/proc/thread-self/schedstat").unwrap().split(' ').next().unwrap().parse().unwrap()
}
fn run(mode: Mode, key: &str) {
    let r = rows("equal.jsonl");
    let (mut bad, mut n, mut fa, mut slow) = (0, 0, 0, std::time::Duration::ZERO);
    let mut times = vec![];
    for x in &r {
        let want = match x[key].as_bool() {
            Some(w) => w,
            None => continue,
        };
        let (p, g) = (x["pred"].as_str().unwrap(), x["gold"].as_str().unwrap());
        let a = if x["wrap"] == "raw" { Answer::Generation(p) } else { Answer::Pred(p) };
        let t = cpu();
        let v = grade(&Row { gold: g, dataset: x["dataset"].as_str(), answer: a }, mode);
        let d = std::time::Duration::from_nanos(cpu() - t);
        times.push(d);
        if d > slow {
            slow = d;
        }
        if d.as_millis() > 25 {
            println!("SLOW {d:?} {p:.100} | {g:.100}");
        }
        n += 1;
        if v.verdict != want {
            bad += 1;
            if v.verdict {
                fa += 1;
            }
            println!(
                "want {want} rule {} {p:.90?} [{:.60}] | {g:.80?} {} {}",
                v.rule.name(),
                v.normalised,
                x["gold_norm"].as_str().unwrap_or(""),
                x["source"].as_str().unwrap()
            );
        }
    }
    times.sort();
    println!(
        "{mode:?} {key}: wrong {bad} of {n} ({:.2} %), accepted wrong {fa} ({:.2} %), slowest {slow:?}, median {:?}",
        100.0 * (n - bad) as f64 / n as f64,
        100.0 * fa as f64 / n as f64,
        times[n / 2]
    );
}
#[test]
fn strict_golden() {
    run(Mode::Strict, "label");
}
#[test]
fn qwen_golden() {
    run(Mode::Qwen, "qwen_pipeline");
}
#[test]
fn gold_norm_golden() {
    let mut bad = 0;
    for x in rows("equal.jsonl") {
        if x["gold"].as_str().unwrap().len() > 3000 {
            continue;
        }
        let g = x["gold"].as_str().unwrap();
        let want = x["gold_norm"].as_str().unwrap_or(g);
        let got = normalise_gold(g, x["dataset"].as_str().unwrap_or("olympiadbench"));
        if got != want {
            bad += 1;
            if bad < 10 {
                println!("{} {g:?} got {got:?} want {want:?}", x["dataset"]);
            }
        }
    }
    println!("gold_norm bad {bad}");
}
#[test]
fn strict_expected() {
    run(Mode::Strict, "expected");
}
#[test]
fn strict_recorded() {
    run(Mode::Strict, "recorded");
}
#[test]
fn torture() {
    let mut cases: Vec<String> = vec![];
    for n in [60usize, 2000] {
        for unit in [
            "(",
            "{",
            "[",
            "\\frac{",
            "\\sqrt{",
            "-",
            "x!",
            "!",
            "^2",
            "x^",
            "+1",
            "1/",
            "|",
            "\\{",
            "\\sin ",
            "x_{",
            "a,",
            "(1,",
            "\\left(",
            "\\begin{pmatrix}",
            "2^{",
            "\\log_",
            "d",
            "'",
            "^\\circ",
            "%",
            "\\%",
            "\\cup(0,1)",
            "x<",
            "f(",
            "1,000",
            "\\pm",
            "\\pm 1+",
            "9^",
            "\\frac{1}{1+",
            "9!",
            "\\binom{9}{",
            "\\text{",
            "é",
            "\\int",
            "\\sum_{k=1}^{9}",
            "\\sum_{k=1}^{1000}\\sin(k)",
            "\\frac{d}{dx}x^",
            "(x+1)",
            "(x+y+z+w)^9",
            "|x|",
            "0.\\overline{3}",
            "1e9",
            "\\frac12",
        ] {
            cases.push(unit.repeat(n));
            cases.push(format!("x{}1", unit.repeat(n)));
            cases.push(format!("{}1{}", unit.repeat(n), "}".repeat(n)));
            cases.push(format!("{}1{}", unit.repeat(n), ")".repeat(n)));
        }
    }
    for s in [
        "10^{10^{10}}",
        "9^{9^{9^{9}}}",
        "1000000!",
        "2^{1000000}",
        "\\sin(10^{100})",
        "e^{e^{e^{e^{e}}}}",
        "\\sum_{k=1}^{10000000}k",
        "\\prod_{k=1}^{100000}k",
        "\\binom{1000000}{500000}",
        "(x+y+z+1)^{100}",
        "(1+x)^{5000}",
        "\\sqrt[100]{x}",
        "\\gcd(10^{500},7)",
        "1e9999",
        "1e-9999",
        "0.1^{9999}",
        "\\frac{1}{x-x}",
        "\\tan(\\frac{\\pi}{2})",
        "\\infty-\\infty",
        "\\frac{\\infty}{\\infty}",
        "123456789123456789123456789^{1/2}",
        "\\sqrt{123456789123456789123456789123456789123456789123456789123456789}",
        "999!",
        "1200!^{1/2}",
        "\\sqrt{1200!}",
        "x^{1000000}",
        "(2+\\sqrt{3})^{1000}",
        "\\frac{1}{(x+1)(x+2)(x+3)(x+4)(x+5)(y+1)(y+2)(z+3)(w+4)}+\\frac{1}{(a+1)(b+2)(c+3)(d+4)(f+5)}",
    ] {
        cases.push(s.into());
    }
    let cpu = || -> u64 {
        std::fs::read_to_string("/proc/thread-self/schedstat").unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    let mut worst = vec![];
    for (k, c) in cases.iter().enumerate() {
        for g in ["x+1", cases[(k * 7 + 3) % cases.len()].as_str()] {
            for mode in [Mode::Qwen, Mode::Strict] {
                for flip in [false, true] {
                    let (p, q) = if flip { (g, c.as_str()) } else { (c.as_str(), g) };
                    let mut d = u64::MAX;
                    for _ in 0..3 {
                        let t = std::time::Instant::now();
                        let _ = grade(&Row { gold: q, dataset: None, answer: Answer::Pred(p) }, mode);
                        d = d.min(t.elapsed().as_micros() as u64);
                        if d < 20000 {
                            break;
                        }
                    }
                    if d > 30000 {
                        println!("NOW {d} {mode:?} {p:.60} | {q:.60}");
                    }
                    worst.push((d, format!("{mode:?} {p:.60} | {q:.60} len {} {}", p.len(), q.len())));
                }
            }
        }
    }
    worst.sort();
    worst.reverse();
    for w in worst.iter().take(25) {
        println!("TORTURE {} us {}", w.0, w.1);
    }
    println!("TORTURE n {}", worst.len());
}
