//! Variables of launchers.

use dist::launch::{Launch, Launcher, detect, meeting, own_gpu};
use dist::rendezvous::Place;

fn found(variables: &[(&str, &str)]) -> Result<Option<Launch>, String> {
    let get = |name: &str| variables.iter().find(|(k, _)| *k == name).map(|(_, v)| v.to_string());
    detect(get).map_err(|e| e.to_string())
}

#[test]
fn every_launcher_is_known_by_its_variables() {
    let launch = |launcher, rank, size, local_size: Option<usize>| {
        let local_rank = local_size.filter(|_| launcher == Launcher::Torchrun).map(|_| 1);
        Ok(Some(Launch { launcher, rank, size, local_size, local_rank }))
    };
    let slurm = [
        ("SLURM_PROCID", "3"),
        ("SLURM_STEP_NUM_TASKS", "8"),
        ("SLURM_STEP_TASKS_PER_NODE", "4(x2)"),
        ("SLURM_STEP_ID", "0"),
    ];
    assert_eq!(found(&slurm), launch(Launcher::Slurm, 3, 8, Some(4)));
    // The batch script around srun.
    assert_eq!(found(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]), Ok(None));
    let open = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "2")];
    assert_eq!(found(&open), launch(Launcher::OpenMpi, 1, 2, Some(2)));
    assert_eq!(found(&[("PMI_RANK", "0"), ("PMI_SIZE", "4")]), launch(Launcher::Hydra, 0, 4, None));
    assert_eq!(found(&[("PMIX_RANK", "0"), ("PMIX_SIZE", "4")]), launch(Launcher::Pmix, 0, 4, None));
    let torchrun = [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")];
    assert_eq!(found(&torchrun), launch(Launcher::Torchrun, 5, 8, Some(4)));
    assert!(!Launcher::Torchrun.speaks_mpi());
    assert_eq!(found(&[("HOME", "/root")]), Ok(None));
}

#[test]
fn variables_that_make_no_sense_are_named() {
    assert!(found(&[("RANK", "x"), ("WORLD_SIZE", "2")]).unwrap_err().contains("RANK=x"));
    assert!(found(&[("RANK", "2"), ("WORLD_SIZE", "2")]).unwrap_err().contains("RANK=2 is not below WORLD_SIZE=2"));
}

#[test]
fn ranks_of_torchrun_are_told_where_to_meet() {
    let launch = found(&[("RANK", "1"), ("WORLD_SIZE", "2")]).unwrap().unwrap();
    let at = |variables: &[(&str, &str)]| {
        let get = |name: &str| variables.iter().find(|(k, _)| *k == name).map(|(_, v)| v.to_string());
        meeting(&launch, "here".into(), get).map(|m| (m.place, m.job, m.rank)).map_err(|e| e.to_string())
    };
    let port = |host: &str, port| Place::Port { host: host.into(), port };
    let place = [("MASTER_ADDR", "node-a"), ("MASTER_PORT", "29500")];
    assert_eq!(at(&place), Ok((port("node-a", 29500), String::new(), (1, 2))));
    // torchrun's own agent listens at the port then.
    let agent = [&place[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RUN_ID", "j")]].concat();
    assert_eq!(at(&agent), Ok((port("node-a", 29501), "j".into(), (1, 2))));
    assert!(
        at(&place[..1])
            .unwrap_err()
            .contains("rank 1 of 2, started by torchrun or Kubernetes (RANK, WORLD_SIZE), and MASTER_PORT is not set")
    );
    assert!(at(&[place[0], ("MASTER_PORT", "x")]).unwrap_err().contains("MASTER_PORT=x"));
    // As torch's init_method, which wins.
    let method =
        |text: &'static str| at(&[&place[..], &[("PROSPECT_INIT_METHOD", text)]].concat()).map(|found| found.0);
    assert_eq!(method("file:///shared/meet"), Ok(Place::File("/shared/meet".into())));
    assert_eq!(method("tcp://10.0.0.1:2345"), Ok(port("10.0.0.1", 2345)));
    for wrong in ["file://shared", "tcp://node", "env://", "tcp://:1"] {
        assert!(method(wrong).unwrap_err().contains(&format!("PROSPECT_INIT_METHOD={wrong}: expected file:///")));
    }
}

#[test]
fn a_rank_takes_its_gpu_of_those_that_it_is_shown() {
    let launch = Launch { launcher: Launcher::Slurm, rank: 6, size: 8, local_size: Some(4), local_rank: Some(2) };
    let own = |seen: Option<&str>| own_gpu(&launch, |_| seen.map(str::to_owned));
    assert_eq!((own(None), own(Some("0,1,2,3")), own(Some("2")), own(Some(""))), (Some(2), Some(2), Some(0), Some(2)));
    assert_eq!(own_gpu(&Launch { local_rank: None, ..launch.clone() }, |_| None), None);
}
