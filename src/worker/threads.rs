//! Starts the responders: a pinned thread per CPU, and no more than are of use.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::thread;

use super::{Worker, give_up};
use crate::gate::Responder;
use crate::sys::shared::RESPONDERS_MAX;
use crate::sys::thread as system_thread;

/// Readers of a group wait non-exclusively: each that sleeps is woken for each event, and all but one in vain. So
/// there are not more of them than it takes for one that waits for its opener to hold nobody up.
const DEFAULT_MAX: usize = 4;

/// Starts them and waits until each has all it needs.
///
/// # Errors
/// A thread or its memory cannot be had.
pub fn start_responders(worker: &Arc<Worker>) -> io::Result<()> {
    let cpus = system_thread::allowed_cpus()?;
    let count = worker.options.threads.unwrap_or(cpus.len().min(DEFAULT_MAX)).clamp(1, RESPONDERS_MAX);
    // With fewer threads than CPUs the scheduler does better: it can wake one near the opener.
    let pinned = count >= cpus.len();
    let (ready, started) = mpsc::channel();
    for index in 0..count {
        let worker = Arc::clone(worker);
        let ready = ready.clone();
        let cpu = cpus.get(index % cpus.len().max(1)).copied().filter(|_| pinned);
        thread::Builder::new().name(format!("writegate-{index}")).spawn(move || {
            worker.page.add_own_thread(system_thread::gettid());
            worker.page.slots[index].reader.store(system_thread::gettid(), Relaxed);
            if let Some(cpu) = cpu {
                // Neither being pinned nor being polite is a matter of safety, only of speed. A responder that ran
                // as soon as it is woken would drive the opener off the CPU before that has gone to sleep, and then
                // wait for it. One that is not pinned may have to drive away somebody who is not the opener.
                let _ = system_thread::pin_to(cpu);
                let _ = system_thread::preempt_nobody();
            }
            worker.shared.audit.warm_thread();
            match Responder::new(Arc::clone(&worker.shared), index) {
                Ok(mut responder) => {
                    let _ = ready.send(Ok(()));
                    drop((ready, worker));
                    if let Err(error) = responder.run() {
                        give_up(&format!("the permission group is unusable: {error}"));
                    }
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
    }
    drop(ready);
    started.into_iter().take(count).collect()
}
