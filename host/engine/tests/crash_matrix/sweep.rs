//! Deaths between the steps: on the host in memory a life is forgotten not only where the executor calls the host, but at every
//! point where it waits for anything, above all between two writes to the store.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use airlock_domain::step::Step;

use crate::cell::{Cell, Plan};
use crate::fake::FakeSite;
use crate::judge;
use crate::support::faulty::{Fault, Strike};

/// Lives that wait at every point that there is: a start that succeeds, one that is undone, a stop, a destruction.
const LIVES: [(Plan, Fault); 4] = [
    (Plan::Start, Fault::ApplyTwice),
    (Plan::Start, Fault::FailBefore),
    (Plan::Stop, Fault::ApplyTwice),
    (Plan::Destroy, Fault::ApplyTwice),
];

#[tokio::test]
async fn a_daemon_is_forgotten_wherever_it_waits() {
    let mut deaths = 0;
    for (plan, fault) in LIVES {
        let cell = Cell { plan, strike: Strike { step: Step::AwaitReady, fault } };
        let mut site = FakeSite::new().await;
        let mut waits = 0;
        while judge::run_forgotten(&mut site, cell, waits)
            .await
            .unwrap_or_else(|error| panic!("{cell}, wait {waits}: {error:#}"))
        {
            waits += 1;
        }
        // Every step is waited for at least once, with what is written about it.
        assert!(waits > Step::ALL.len(), "{cell}: only {waits} waits");
        judge::sweep(&mut site).await.unwrap();
        deaths += waits;
    }
    println!("fake: forgotten at {deaths} waits, nothing leaked");
}

/// Polls a life until it has waited so many times; whether it was forgotten before its end.
pub async fn forgotten_after(waits: usize, life: impl Future<Output = ()>) -> bool {
    let (mut life, mut left) = (pin!(life), waits);
    poll_fn(|context| match life.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(false),
        Poll::Pending if left == 0 => Poll::Ready(true),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}
