//! Who started this process, and as which rank of how many: read from the variables that launchers set.

use crate::Error;
use crate::rendezvous::Meeting;

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

/// Where ranks meet that `RANK` and `WORLD_SIZE` number: `MASTER_ADDR` and `MASTER_PORT`, or the port after that, where torchrun itself
/// listens at it. `machine` is the name of this one.
///
/// Errors: a variable that is not there, a port that is none.
pub fn meeting(launch: &Launch, machine: String, variable: impl Fn(&str) -> Option<String>) -> Result<Meeting, Error> {
    let needed = |name: &str| {
        variable(name).filter(|text| !text.is_empty()).ok_or_else(|| Error::Launch {
            what: format!(
                "this is rank {} of {}, by RANK and WORLD_SIZE, and {name} is not set: ranks meet at MASTER_ADDR and MASTER_PORT, which torchrun and Kubernetes' training operator set",
                launch.rank, launch.size
            ),
        })
    };
    let (host, text) = (needed("MASTER_ADDR")?, needed("MASTER_PORT")?);
    let taken = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|said| said == "True");
    let port = text.parse::<u16>().ok().and_then(|port| port.checked_add(u16::from(taken))).filter(|port| *port > 0);
    let port =
        port.ok_or_else(|| Error::Launch { what: format!("MASTER_PORT={text}: expected a port below 65535") })?;
    let job = variable("TORCHELASTIC_RUN_ID").unwrap_or_default();
    Ok(Meeting { host, port, job, rank: (launch.rank, launch.size), machine })
}
