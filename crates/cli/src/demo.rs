//! `demo`: the product in miniature.

use crate::args::DemoArgs;
use crate::failure::Failure;
use crate::screen::Screen;

/// `prospect demo`
pub fn demo(args: &DemoArgs, _screen: &Screen) -> Result<u8, Failure> {
    let DemoArgs { seed, output } = args;
    Err(Failure::usage(format!("the demo (seed {seed}, {}) is not part of this build yet", output.display())))
}
