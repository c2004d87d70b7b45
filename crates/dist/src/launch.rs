//! Who started this process, and as which rank of how many: read from the variables that launchers set.

use crate::Error;
use crate::rendezvous::{Meeting, Place};

/// What started the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// Slurm's `srun`.
    Slurm,
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// Hydra: `mpiexec` of MPICH and Intel MPI.
    Hydra,
    /// PMIx: `prun`, or a site's own launcher.
    Pmix,
    /// torchrun, Kubernetes' training operator, Ray: `RANK` and `WORLD_SIZE`.
    Torchrun,
}

impl Launcher {
    /// As its users call it.
    pub fn name(self) -> &'static str {
        match self {
            Launcher::Slurm => "srun",
            Launcher::OpenMpi => "mpirun (Open MPI)",
            Launcher::Hydra => "mpiexec (Hydra)",
            Launcher::Pmix => "PMIx",
            Launcher::Torchrun => "torchrun or Kubernetes (RANK, WORLD_SIZE)",
        }
    }

    /// Whether it brings MPI's ranks together.
    pub fn speaks_mpi(self) -> bool {
        self != Launcher::Torchrun
    }
}

/// One process of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What started it.
    pub launcher: Launcher,
    /// Its rank, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// How many of them are on this machine, where the launcher says so.
    pub local_size: Option<usize>,
    /// Which of those it is.
    pub local_rank: Option<usize>,
}

/// Variables of the rank, of the number of ranks, of those on this machine, of the rank among these; for `srun`, the number of ranks is one of its step's:
/// the batch script around it has a rank too.
#[rustfmt::skip] // a table: one row, one line
const KNOWN: [(Launcher, [&str; 4]); 5] = [
    (Launcher::OpenMpi, ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"]),
    (Launcher::Torchrun, ["RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"]),
    (Launcher::Slurm, ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_LOCALID"]),
    (Launcher::Hydra, ["PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"]),
    (Launcher::Pmix, ["PMIX_RANK", "PMIX_SIZE", "PMIX_LOCAL_SIZE", "PMIX_LOCAL_RANK"]),
];

/// What the variables say; `None` where no launcher set any.
///
/// Errors: a variable that is no number, a rank beyond the number of ranks.
pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Launch>, Error> {
    for (launcher, [rank, size, local, local_rank]) in KNOWN {
        let (Some(rank_text), Some(size_text)) = (variable(rank), variable(size)) else { continue };
        let number = |name: &str, text: &str| {
            text.parse::<usize>().map_err(|_| Error::Launch {
                what: format!("{name}={text}, set by {}: expected a whole number", launcher.name()),
            })
        };
        let (own, all) = (number(rank, &rank_text)?, number(size, &size_text)?);
        if own >= all {
            let what = format!("{rank}={own} is not below {size}={all}, set by {}", launcher.name());
            return Err(Error::Launch { what });
        }
        // `2(x3)` is Slurm's way to say two on each of three machines.
        let first_number = |text: String| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        let local_size = variable(local).and_then(first_number).filter(|n| *n > 0);
        let local_rank = variable(local_rank).and_then(|text| text.parse().ok());
        return Ok(Some(Launch { launcher, rank: own, size: all, local_size, local_rank }));
    }
    Ok(None)
}

/// The GPU of a rank among those of its machine: that of its number there, counted round where its launcher shows it fewer
/// (`CUDA_VISIBLE_DEVICES`).
pub fn own_gpu(launch: &Launch, variable: impl Fn(&str) -> Option<String>) -> Option<usize> {
    let seen =
        variable("CUDA_VISIBLE_DEVICES").map(|list| list.split(',').filter(|gpu| !gpu.trim().is_empty()).count());
    launch.local_rank.map(|rank| seen.filter(|n| *n > 0).map_or(rank, |n| rank % n))
}

/// The variable that says where ranks meet, as torch's `init_process_group` is told.
const INIT_METHOD: &str = "PROSPECT_INIT_METHOD";

/// Where ranks meet whom their launcher does not bring together: as `PROSPECT_INIT_METHOD` says (`file:///shared/file` or
/// `tcp://host:port`), else at `MASTER_ADDR` and `MASTER_PORT`, or the port after that, where torchrun itself listens at it. `machine` is the
/// name of this one.
///
/// Errors: a variable that is not there, a port that is none.
pub fn meeting(launch: &Launch, machine: String, variable: impl Fn(&str) -> Option<String>) -> Result<Meeting, Error> {
    let given = |name: &str| variable(name).filter(|text| !text.is_empty());
    let rank = (launch.rank, launch.size);
    if let Some(method) = given(INIT_METHOD) {
        let place = place_of(&method).ok_or_else(|| Error::Launch {
            what: format!(
                "{INIT_METHOD}={method}: expected file:///shared/file, which need not be there, or tcp://host:port"
            ),
        })?;
        return Ok(Meeting { place, job: String::new(), rank, machine });
    }
    let needed = |name: &str| {
        given(name).ok_or_else(|| Error::Launch {
            what: format!(
                "this is rank {} of {}, started by {}, and {name} is not set: ranks meet at MASTER_ADDR and MASTER_PORT, which torchrun and Kubernetes' training operator set, or where {INIT_METHOD} says (file:///shared/file)",
                launch.rank,
                launch.size,
                launch.launcher.name()
            ),
        })
    };
    let (host, text) = (needed("MASTER_ADDR")?, needed("MASTER_PORT")?);
    let taken = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|said| said == "True");
    let port = text.parse::<u16>().ok().and_then(|port| port.checked_add(u16::from(taken))).filter(|port| *port > 0);
    let port =
        port.ok_or_else(|| Error::Launch { what: format!("MASTER_PORT={text}: expected a port below 65535") })?;
    let job = variable("TORCHELASTIC_RUN_ID").unwrap_or_default();
    Ok(Meeting { place: Place::Port { host, port }, job, rank, machine })
}

/// As torch writes it.
fn place_of(method: &str) -> Option<Place> {
    if let Some(path) = method.strip_prefix("file://") {
        return Some(Place::File(path.into())).filter(|_| path.starts_with('/') && path.len() > 1);
    }
    let (host, port) = method.strip_prefix("tcp://")?.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some(Place::Port { host: host.to_owned(), port }).filter(|_| !host.is_empty())
}
