//! The mathematics under both graders: expressions, their normal form, their value at points, their identity.

pub(super) mod complex;
pub(super) mod derive;
pub(super) mod evaluate;
pub(super) mod expr;
pub(super) mod identity;
pub(super) mod normal;
pub(super) mod real;
