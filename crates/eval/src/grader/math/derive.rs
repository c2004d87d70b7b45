//! Derivatives of expressions.

use super::expr::{Expr, Func};

/// A body with more nodes is left underived: a derivative of a derivative grows without end.
const MAX_NODES: usize = 120;

/// `d body / d var`; a node that stands for the derivative where no rule is known.
pub(in crate::grader) fn derivative(body: &Expr, var: &str) -> Expr {
    let names_it = |e: &Expr| matches!(e, Expr::Var(name) if **name == *var);
    if !body.any(&names_it) {
        return Expr::int(0);
    }
    if body.nodes() > MAX_NODES {
        return Expr::Derivative { var: var.into(), body: Box::new(body.clone()) };
    }
    let d = |part: &Expr| derivative(part, var);
    match body {
        Expr::Var(_) => Expr::int(1),
        Expr::Add(parts) => Expr::Add(parts.iter().map(d).collect()),
        Expr::Mul(parts) => {
            let term = |at: usize| {
                let factor = |(k, part): (usize, &Expr)| if k == at { d(part) } else { part.clone() };
                Expr::Mul(parts.iter().enumerate().map(factor).collect())
            };
            Expr::Add((0..parts.len()).map(term).collect())
        }
        Expr::Pow(base, exponent) => {
            // (b^e)' = b^e (e' ln b + e b' / b)
            let by_exponent = Expr::Mul(vec![d(exponent), Expr::Call(Func::Ln, vec![(**base).clone()])]);
            let lowered = (**base).clone().pow((**exponent).clone().sub(Expr::int(1)));
            let by_base = Expr::Mul(vec![(**exponent).clone(), d(base), lowered]);
            match (exponent.any(&names_it), base.any(&names_it)) {
                (false, _) => by_base,
                (true, false) => Expr::Mul(vec![body.clone(), by_exponent]),
                (true, true) => Expr::Add(vec![Expr::Mul(vec![body.clone(), by_exponent]), by_base]),
            }
        }
        Expr::Call(func, args) => match (outer(*func, args), args.first()) {
            (Some(outer), Some(inner)) => Expr::Mul(vec![outer, d(inner)]),
            _ => Expr::Derivative { var: var.into(), body: Box::new(body.clone()) },
        },
        _ => Expr::Derivative { var: var.into(), body: Box::new(body.clone()) },
    }
}

/// The derivative of a function at its first argument.
fn outer(func: Func, args: &[Expr]) -> Option<Expr> {
    let x = args.first()?.clone();
    let call = |func| Expr::Call(func, vec![x.clone()]);
    let square = |e: Expr| e.pow(Expr::int(2));
    Some(match func {
        Func::Sin => call(Func::Cos),
        Func::Cos => call(Func::Sin).neg(),
        Func::Tan => square(call(Func::Sec)),
        Func::Sinh => call(Func::Cosh),
        Func::Cosh => call(Func::Sinh),
        Func::Ln => x.inverse(),
        Func::Atan => Expr::Add(vec![Expr::int(1), square(x)]).inverse(),
        Func::Root => {
            let power = args.get(1)?.clone().inverse();
            Expr::Mul(vec![power.clone(), x.pow(power.sub(Expr::int(1)))])
        }
        _ => return None,
    })
}
