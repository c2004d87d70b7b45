//! Units of measure in words.

/// Words for one unit, the first its name.
const UNITS: [&[&str]; 62] = [
    &["m", "meter", "metre"],
    &["cm", "centimeter", "centimetre"],
    &["mm", "millimeter", "millimetre"],
    &["km", "kilometer", "kilometre"],
    &["nm", "nanometer"],
    &["inch", "in", "inches"],
    &["ft", "foot", "feet"],
    &["yd", "yard"],
    &["mi", "mile"],
    &["kg", "kilogram"],
    &["g", "gram"],
    &["mg", "milligram"],
    &["lb", "lbs", "pound"],
    &["oz", "ounce"],
    &["ton", "tonne"],
    &["s", "sec", "second"],
    &["min", "minute"],
    &["h", "hr", "hrs", "hour"],
    &["day"],
    &["week"],
    &["month"],
    &["yr", "year"],
    &["l", "L", "liter", "litre"],
    &["ml", "mL", "milliliter"],
    &["gallon"],
    &["quart"],
    &["cup"],
    &["dollar", "USD", "$"],
    &["cent"],
    &["euro"],
    &["rupee"],
    &["degree", "deg"],
    &["rad", "radian"],
    &["percent", "pct"],
    &["unit"],
    &["square unit", "sq unit"],
    &["cubic unit", "cu unit"],
    &["J", "joule"],
    &["kJ", "kilojoule"],
    &["erg"],
    &["eV"],
    &["N", "newton"],
    &["W", "watt"],
    &["V", "volt"],
    &["A", "ampere"],
    &["K", "kelvin"],
    &["Hz", "hertz"],
    &["Pa", "pascal"],
    &["C", "coulomb"],
    &["mol", "mole"],
    &["mph"],
    &["people", "person"],
    &["student"],
    &["apple"],
    &["point"],
    &["page"],
    &["way"],
    &["time"],
    &["square"],
    &["cubic"],
    &["ohm"],
    &["tesla", "T"],
];

/// The unit's name for a word in singular or plural.
fn name(word: &str) -> Option<&'static str> {
    let find = |word: &str| UNITS.iter().find(|unit| unit.contains(&word)).map(|unit| unit[0]);
    let lower = word.to_lowercase();
    find(word).or_else(|| find(&lower)).or_else(|| lower.strip_suffix('s').filter(|stem| stem.len() > 1).and_then(find))
}

/// Whether a plain word is a unit.
pub(super) fn is_unit(word: &str) -> bool {
    name(word).is_some()
}

/// One spelling for a unit's text: `square inches`, `\text{ in}^2` -> `inch^2`.
pub(super) fn canonical(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().map(|word| name(word).unwrap_or(word)).collect();
    let mut out = String::new();
    let mut power = None;
    for word in words {
        match word {
            "square" => power = Some("^2"),
            "cubic" => power = Some("^3"),
            _ => {
                out.push_str(word);
                out.push_str(power.take().unwrap_or(""));
            }
        }
    }
    out
}
