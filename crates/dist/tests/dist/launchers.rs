//! Variables of launchers.

use dist::launch::{Launch, Launcher, detect, meeting};

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
        meeting(&launch, "here".into(), get).map(|m| (m.host, m.port, m.job, m.rank)).map_err(|e| e.to_string())
    };
    let place = [("MASTER_ADDR", "node-a"), ("MASTER_PORT", "29500")];
    assert_eq!(at(&place), Ok(("node-a".into(), 29500, String::new(), (1, 2))));
    // torchrun's own agent listens at the port then.
    let agent = [&place[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RUN_ID", "j")]].concat();
    assert_eq!(at(&agent), Ok(("node-a".into(), 29501, "j".into(), (1, 2))));
    assert!(at(&place[..1]).unwrap_err().contains("rank 1 of 2, by RANK and WORLD_SIZE, and MASTER_PORT is not set"));
    assert!(at(&[place[0], ("MASTER_PORT", "x")]).unwrap_err().contains("MASTER_PORT=x"));
}
