//! Ranks that meet at a port, and the engine that does.

use crate::conformance::conforms;
use dist::rendezvous::{Meeting, Place, Rendezvous};
use dist::{Channel, Error, Nccl, Stuck, World, nccl};
use std::net::{TcpListener, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// A port that nobody listens at.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn meeting(rank: usize, size: usize, port: u16, job: &str) -> Meeting {
    let machine = format!("machine-{rank}");
    let place = Place::Port { host: "127.0.0.1".into(), port };
    Meeting { place, job: job.into(), rank: (rank, size), machine }
}

/// Every rank in a thread of its own.
fn together<T: Send>(size: usize, work: impl Fn(Meeting) -> T + Sync) -> Vec<T> {
    let (port, work) = (port(), &work);
    std::thread::scope(|scope| {
        let ranks = (0..size).map(|rank| scope.spawn(move || work(meeting(rank, size, port, "job"))));
        ranks.collect::<Vec<_>>().into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Waits for what a rank says.
fn heard(channel: &dyn Channel) -> (usize, String) {
    let until = Instant::now() + PATIENCE;
    loop {
        match channel.hear() {
            Some(heard) => return heard,
            None => assert!(Instant::now() < until, "nobody said anything"),
        }
        std::thread::yield_now();
    }
}

#[test]
fn all_hear_what_rank_0_gives_and_what_each_says() {
    let found = together(3, |meeting| {
        let until = Instant::now() + PATIENCE;
        let channel = Rendezvous::join(&meeting, until).unwrap();
        let given = channel.lead_says(b"the id", until).unwrap();
        if channel.rank() == 1 {
            channel.say("in vain:2", PATIENCE);
            return (given, heard(&channel));
        }
        let first = heard(&channel);
        assert_eq!(first, (1, "in vain:2".to_owned()), "rank {}", channel.rank());
        channel.say("me", PATIENCE);
        (given, heard(&channel))
    });
    for (given, (rank, words)) in &found {
        assert_eq!((&given[..], words.as_str()), (&b"the id"[..], "me"));
        assert!(*rank == 0 || *rank == 2);
    }
}

#[test]
fn strangers_are_sent_away_and_whoever_breaks_off_is_named() {
    let port = port();
    let until = Instant::now() + PATIENCE;
    let lead = Rendezvous::join(&meeting(0, 3, port, "job"), until).unwrap();
    // One that talks of other things, one of another job, a rank that there is not.
    let mut stranger = TcpStream::connect(("127.0.0.1", port)).unwrap();
    std::io::Write::write_all(&mut stranger, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let others = [meeting(1, 3, port, "another"), meeting(7, 8, port, "job")];
    let _others = others.map(|other| Rendezvous::join(&other, until).unwrap());
    assert_eq!(lead.lead_says(b"id", Instant::now() + Duration::from_millis(80)), Err(Stuck::Missing(vec![1, 2])));
    let one = Rendezvous::join(&meeting(1, 3, port, "job"), until).unwrap();
    let two = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::io::Write::write_all(&mut stream, b"prs1\x01\x02\0\0\0\x03\0\0\0job").unwrap();
        stream
    });
    let two = two.join().unwrap();
    lead.lead_says(b"id", until).unwrap();
    drop(two);
    for channel in [&lead, &one] {
        let (rank, words) = heard(channel);
        assert!(rank == 2 && words.contains("its connection is gone"), "{rank}: {words}");
    }
    // Who ends as it should does not alarm anybody.
    drop(one);
    assert_eq!(lead.hear(), None);
}

#[test]
fn ranks_find_one_another_through_a_file_whatever_lay_there() {
    let path = std::env::temp_dir().join(format!("prospect-meeting-{}", std::process::id()));
    // What a job that was killed has left behind: its port is nobody's now.
    std::fs::write(&path, format!("prospect ranks meet\nanother\n{}\n127.0.0.1\n", port())).unwrap();
    let until = Instant::now() + PATIENCE;
    let at =
        |rank| Meeting { place: Place::File(path.clone()), machine: "localhost".into(), ..meeting(rank, 3, 1, "") };
    let given = std::thread::scope(|scope| {
        let ranks = [2, 1, 0].map(|rank| {
            let at = &at;
            scope.spawn(move || {
                let channel = Rendezvous::join(&at(rank), until).unwrap();
                let given = channel.lead_says(b"the id", until).unwrap();
                // Nobody goes before all have heard it.
                channel.say("heard", PATIENCE);
                (0..2).for_each(|_| drop(heard(&channel)));
                given
            })
        });
        ranks.map(|rank| rank.join().unwrap())
    });
    assert_eq!(given, [b"the id"; 3]);
    assert!(!path.exists(), "rank 0 takes its notice away");
    let gone = Meeting { place: Place::File("/nowhere/at/all".into()), ..at(0) };
    let said = Rendezvous::join(&gone, until).err().expect("no such folder").to_string();
    assert!(said.contains("/nowhere/at/all") && said.contains("PROSPECT_INIT_METHOD"), "{said}");
}

#[test]
fn without_a_gpu_the_error_says_what_is_missing() {
    let options = nccl::Options { device: 4096, folders: Vec::new() };
    let error = nccl::Found::open(&options).err().expect("no machine has so many GPUs");
    assert!(matches!(&error, Error::Launch { .. }) && error.exit_code() == 2);
    let said = error.to_string();
    assert!(["driver", "NCCL", "GPU 4096"].iter().any(|part| said.contains(part)), "{said}");
}

/// The folder of a stand-in for NCCL and the driver (`.ci/nccl`); alone there is nothing to do.
fn standin(rank: usize) -> Option<nccl::Options> {
    let folder = std::env::var_os("PROSPECT_TEST_NCCL")?;
    Some(nccl::Options { device: rank, folders: vec![folder.into()] })
}

fn world(meeting: &Meeting, timeout: Duration) -> World {
    let until = Instant::now() + PATIENCE;
    let channel = Rendezvous::join(meeting, until).unwrap();
    let found = nccl::Found::open(&standin(meeting.rank.0).expect("asked before")).unwrap();
    let nccl = Nccl::join(found, Box::new(channel), until).unwrap_or_else(|e| panic!("{e}"));
    World::new(Box::new(nccl), timeout).unwrap()
}

#[test]
fn nccl_conforms() {
    for size in (1..=4).filter(|_| standin(0).is_some()) {
        together(size, |meeting| {
            let world = world(&meeting, PATIENCE);
            conforms(&world);
            world.barrier().unwrap();
        });
    }
}

#[test]
fn nccl_names_the_rank_that_does_not_come_and_the_one_that_leaves() {
    if standin(0).is_none() {
        return;
    }
    let over = Barrier::new(3);
    let ended = together(3, |meeting| {
        let world = world(&meeting, Duration::from_millis(500));
        world.barrier().unwrap();
        // One of them is there, and does not come.
        let error = (world.rank() != 1).then(|| world.all_reduce(&mut [1.0; 3072]).unwrap_err());
        over.wait();
        error
    });
    for error in ended.iter().flatten() {
        let Error::Peer { stuck, hosts, .. } = error else { panic!("{error}") };
        assert_eq!((stuck, &hosts[..]), (&Stuck::Missing(vec![1]), &["machine-1".to_owned()][..]), "{error}");
    }
    let ended = together(3, |meeting| {
        let world = world(&meeting, PATIENCE);
        world.barrier().unwrap();
        if world.rank() == 2 {
            world.leave("the disk is full");
            return None;
        }
        Some(world.barrier().unwrap_err().to_string())
    });
    for said in ended.iter().flatten() {
        assert!(said.contains("rank 2 on machine-2 has ended: the disk is full"), "{said}");
    }
}
