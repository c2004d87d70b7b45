//! Signals as requests: stop and save, save and go on.

use crate::failure::Failure;
use crate::screen::Screen;
use std::sync::Arc;
use train::Control;

/// What is said when a run is to stop.
const STOPPING: &str = "stopping: the last whole step is saved; once more to exit at once";

/// Passes signals on to a run: SIGTERM and SIGINT stop it, and SIGUSR2, which `launch` has mpirun hand on; a second one ends the process with
/// 130, SIGUSR1 saves.
pub(crate) fn watch(control: &Arc<Control>, screen: &Screen) -> Result<(), Failure> {
    listen(control, screen, STOPPING)
}

/// The same signal again within this time is the same request: terminals, Slurm and `timeout` signal whole groups of processes, and those that
/// started a rank pass theirs on to it.
#[cfg(unix)]
const TOGETHER: std::time::Duration = std::time::Duration::from_millis(250);

/// Passes signals on; `stopping` is said on the first that stops.
#[cfg(unix)]
pub(crate) fn listen(control: &Arc<Control>, screen: &Screen, stopping: &'static str) -> Result<(), Failure> {
    use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
    use std::sync::atomic::Ordering;
    use std::time::Instant;
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGUSR2])
        .map_err(|e| Failure::usage(format!("cannot listen to signals: {e}")))?;
    let (control, screen) = (Arc::clone(control), *screen);
    std::thread::spawn(move || {
        let mut last = None;
        for signal in signals.forever() {
            if last.is_some_and(|(before, at): (_, Instant)| before == signal && at.elapsed() < TOGETHER) {
                continue;
            }
            last = Some((signal, Instant::now()));
            if signal == SIGUSR1 {
                screen.line("saving after this step");
                control.save.store(true, Ordering::SeqCst);
            } else if control.stop.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            } else {
                screen.line(stopping);
            }
        }
    });
    Ok(())
}

/// Passes Ctrl-C on: the first stops, the second ends the process with 130.
#[cfg(not(unix))]
pub(crate) fn listen(control: &Arc<Control>, screen: &Screen, stopping: &'static str) -> Result<(), Failure> {
    use signal_hook::consts::SIGINT;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;
    let pressed = Arc::new(AtomicBool::new(false));
    let failed = |e: std::io::Error| Failure::usage(format!("cannot listen to Ctrl-C: {e}"));
    // In this order: the first press finds the flag unset, the second finds it set and exits.
    signal_hook::flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&pressed)).map_err(failed)?;
    signal_hook::flag::register(SIGINT, Arc::clone(&pressed)).map_err(failed)?;
    let (control, screen) = (Arc::clone(control), *screen);
    std::thread::spawn(move || {
        while !pressed.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
        }
        control.stop.store(true, Ordering::SeqCst);
        screen.line(stopping);
    });
    Ok(())
}
