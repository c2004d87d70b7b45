//! What every engine has to do. `solo` and `threads` here; `mpi` where the tests are started by `mpirun` (feature `mpi`).

use crate::sums::pick;
use dist::shards::even;
use dist::threads::threads;
use dist::{Collective, Error, Shards, Solo, Stuck, World};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// Values of a rank: sums of these depend on their order.
fn values(rank: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + rank * 101) % 89) as f32 * 10f32.powi((rank as i32 * 3) % 7 - 3)).collect()
}

/// The sum in order of rank.
fn expected(size: usize, len: usize) -> Vec<f32> {
    let mut sum = values(0, len);
    for rank in 1..size {
        sum.iter_mut().zip(values(rank, len)).for_each(|(a, b)| *a += b);
    }
    sum
}

/// Everything an engine has to do, from one rank's point of view.
pub(crate) fn conforms(world: &World) {
    let (rank, size) = (world.rank(), world.size());
    assert_eq!(world.hosts().len(), size);
    // Nothing, less than a rank's worth, primes, one past a block, several megabytes.
    for len in [0, 1, 7, 1024, 1025, 4099, 1 << 20] {
        let ranges = even(len, size);
        let want = expected(size, len);
        let mut all = values(rank, len);
        world.all_reduce(&mut all).unwrap();
        assert_eq!(all, want, "all_reduce of {len}");
        let own = world.reduce_scatter(&values(rank, len), &ranges).unwrap();
        assert_eq!(own, want[ranges[rank].clone()], "reduce_scatter of {len}");
        let mut all = vec![-1.0; len];
        all[ranges[rank].clone()].copy_from_slice(&want[ranges[rank].clone()]);
        world.all_gather(&mut all, &ranges).unwrap();
        assert_eq!(all, want, "all_gather of {len}");
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let got = world.broadcast(if world.leads() { &bytes } else { b"not looked at" }).unwrap();
        assert!(got == bytes, "broadcast of {len}");
    }
    let said = world.gather("x".repeat(rank * 3).as_bytes()).unwrap();
    assert_eq!(said.iter().map(Vec::len).collect::<Vec<_>>(), (0..size).map(|r| r * 3).collect::<Vec<_>>());
    let numbers = world.gather_numbers(&[rank as f64, 0.5]).unwrap();
    assert_eq!(numbers, (0..size).map(|r| vec![r as f64, 0.5]).collect::<Vec<_>>());
    // Every third rank gives two parts, the one after it one, the next none.
    let counts: Vec<usize> = (0..size).map(|r| 2 - r % 3).collect();
    let shards = Shards::new(5000, size);
    let part = |from: usize, to: usize| pick(&shards, to, 0..5000, &values(from, 5000)).repeat(counts[from]);
    let parts: Vec<Vec<f32>> = (0..size).map(|to| part(rank, to)).collect();
    let got = world.scatter_some(parts, &counts, shards.count(rank, 0..5000)).unwrap();
    assert_eq!(got, (0..size).map(|from| part(from, rank)).collect::<Vec<_>>());
    // Fewer parts than ranks.
    let parts: Vec<Vec<f32>> = (0..2).map(|to| values(rank + to, counts[rank] * 7)).collect();
    let got = world.scatter_some(parts, &counts, 7).unwrap();
    assert_eq!(got, (0..size).map(|from| values(from + rank % 2, counts[from] * 7)).collect::<Vec<_>>());
    // In groups of two, of which the last may be alone.
    let group = rank / 2 * 2..(rank / 2 * 2 + 2).min(size);
    let counts: Vec<usize> = group.clone().map(|r| 100 + r).collect();
    let got = world.gather_among(group.clone(), &values(rank, 100 + rank), &counts).unwrap();
    assert_eq!(got, group.clone().flat_map(|r| values(r, 100 + r)).collect::<Vec<_>>());
    let got = world.gather_others(group.clone(), &values(rank, 100 + rank), &counts).unwrap();
    let other = |r: usize| if r == rank { Vec::new() } else { values(r, 100 + r) };
    assert_eq!(got, group.clone().map(other).collect::<Vec<_>>());
    let halves = world.gather_among(group.clone(), &[rank as u16; 3], &vec![3; group.len()]).unwrap();
    assert_eq!(halves, group.flat_map(|r| [r as u16; 3]).collect::<Vec<_>>());
    goes_on_behind(world);
    let before = world.meter().of(Collective::Barrier);
    world.barrier().unwrap();
    let after = world.meter().of(Collective::Barrier);
    assert_eq!((after.calls, after.sent), (before.calls + 1, before.sent + size as u64 - 1));
    counts_bytes(world);
}

/// What is asked for behind is done in order, and before what is asked for directly.
fn goes_on_behind(world: &World) {
    let (rank, size) = (world.rank(), world.size());
    let sum = |of: usize| {
        expected(size, 3000)[even(3000, size)[rank].clone()].iter().map(|x| x * of as f32).collect::<Vec<_>>()
    };
    let begin = |of: usize| {
        let scaled: Vec<f32> = values(rank, 3000).iter().map(|x| x * of as f32).collect();
        world.behind(move |world| world.reduce_scatter(&scaled, &even(3000, world.size())))
    };
    // Powers of two, so that sums of multiples are multiples of sums.
    let coming: Vec<_> = [1, 2, 4, 8].map(|of| (of, begin(of))).into();
    let numbers = world.gather_numbers(&[rank as f64]).unwrap();
    assert_eq!(numbers.concat(), (0..size).map(|r| r as f64).collect::<Vec<_>>());
    for (of, coming) in coming {
        assert_eq!(coming.take().unwrap(), sum(of), "{of} times");
    }
}

/// An all-reduce sends every rank but the own range of it twice: `2 (n - 1) / n` of the values.
fn counts_bytes(world: &World) {
    let (size, len) = (world.size() as u64, 12 << 10);
    let before = world.meter().of(Collective::AllReduce).sent;
    world.all_reduce(&mut values(world.rank(), len)).unwrap();
    let sent = world.meter().of(Collective::AllReduce).sent - before;
    if 12 % size == 0 {
        assert_eq!(sent, 2 * (size - 1) * 4 * len as u64 / size);
    }
}

/// Runs every rank in a thread of its own; returns what they return, in order.
pub(crate) fn together<T: Send>(size: usize, timeout: Duration, work: impl Fn(World) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let start = |comm: dist::threads::Threads| {
            scope.spawn(move || work(World::new(Box::new(comm), timeout).unwrap_or_else(|e| panic!("{e}"))))
        };
        let ranks: Vec<_> = threads(size).into_iter().map(start).collect();
        ranks.into_iter().map(|r| r.join().unwrap()).collect()
    })
}

#[test]
fn one_rank_alone_conforms() {
    conforms(&World::solo());
    conforms(&World::new(Box::new(Solo), PATIENCE).unwrap());
}

#[test]
fn threads_conform() {
    for size in 1..=5 {
        together(size, PATIENCE, |world| conforms(&world));
    }
}

#[test]
fn a_rank_that_does_not_come_is_named_by_all_others_in_every_collective() {
    for what in Collective::ALL {
        for absent in 0..3 {
            let errors = together(3, Duration::from_millis(60), |world| {
                world.set_step(7);
                if world.rank() == absent {
                    return None;
                }
                let ranges = even(3072, 3);
                let begin = Instant::now();
                let result = match what {
                    Collective::AllReduce => world.all_reduce(&mut [1.0; 3072]),
                    Collective::ReduceScatter => world.reduce_scatter(&[1.0; 3072], &ranges).map(drop),
                    Collective::AllGather => world.all_gather(&mut [1.0; 3072], &ranges),
                    Collective::Broadcast if absent == 0 => world.broadcast(b"x").map(drop),
                    // Rank 0 sends and waits for nobody: the next that all take part in finds out.
                    Collective::Broadcast => world.broadcast(b"x").and_then(|_| world.barrier()),
                    Collective::Barrier => world.barrier(),
                };
                assert!(begin.elapsed() < Duration::from_secs(5));
                let error = result.unwrap_err();
                assert_eq!(world.failure(), Some(error.clone()), "the failure is kept");
                assert_eq!(world.barrier(), Err(error.clone()), "and ends everything after it");
                Some(error)
            });
            for error in errors.into_iter().flatten() {
                let Error::Peer { stuck, hosts, step, .. } = &error else { panic!("{error}") };
                assert_eq!((stuck, *step), (&Stuck::Missing(vec![absent]), 7), "{what}");
                assert_eq!(*hosts, [format!("thread-{absent}")]);
                assert_eq!(error.exit_code(), 7);
                assert!(error.to_string().contains(&format!("rank {absent} on thread-{absent}")), "{error}");
            }
        }
    }
}

#[test]
fn what_fails_behind_is_told_where_it_is_taken_and_to_all_that_comes_after() {
    let ended = together(3, Duration::from_millis(60), |world| {
        if world.rank() == 1 {
            return None;
        }
        let first = world.behind(|world| world.barrier());
        let second = world.behind(|world| world.all_reduce(&mut [1.0; 64]));
        let error = first.take().unwrap_err();
        assert_eq!((second.take(), world.barrier()), (Err(error.clone()), Err(error.clone())));
        Some(error)
    });
    for error in ended.into_iter().flatten() {
        let Error::Peer { stuck, collective, .. } = &error else { panic!("{error}") };
        assert_eq!((stuck, collective), (&Stuck::Missing(vec![1]), &Collective::Barrier));
    }
}

#[test]
fn a_rank_that_leaves_ends_the_wait_of_the_others_with_its_reason() {
    let ended = together(4, PATIENCE, |world| {
        if world.rank() == 2 {
            world.leave("out of memory");
            return String::new();
        }
        world.barrier().unwrap_err().to_string()
    });
    for said in ended.iter().filter(|s| !s.is_empty()) {
        assert!(said.contains("rank 2 on thread-2 has ended: out of memory"), "{said}");
    }
    assert_eq!(ended.iter().filter(|s| s.is_empty()).count(), 1);
}

/// Under `mpirun`, each process is one rank of this test; alone it has nothing to do.
#[cfg(feature = "mpi")]
#[test]
fn mpi_conforms() {
    if std::env::var_os("OMPI_COMM_WORLD_RANK").is_none() && std::env::var_os("PMI_RANK").is_none() {
        return;
    }
    let world = World::new(Box::new(dist::Mpi::start().unwrap()), PATIENCE).unwrap();
    conforms(&world);
    world.barrier().unwrap();
}
