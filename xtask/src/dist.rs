//! What is handed out: the stripped binary, checksums, completions and manual pages, in one folder and one archive.

use ring::digest::{SHA256, digest};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The most that the binary may have, bytes.
const LARGEST: u64 = 40_000_000;
/// The oldest C library that it is meant to run on.
const GLIBC: (u32, u32) = (2, 28);
/// Files that go along.
const COMPANIONS: [&str; 3] = ["README.md", "LICENSE", "CHANGELOG.md"];
const SHELLS: [(&str, &str); 4] =
    [("bash", "prospect.bash"), ("zsh", "_prospect"), ("fish", "prospect.fish"), ("powershell", "_prospect.ps1")];

/// Builds for the given targets, or for this machine's own.
pub(crate) fn run(root: &Path, targets: &[String]) -> io::Result<()> {
    let own = host()?;
    let targets = if targets.is_empty() { std::slice::from_ref(&own) } else { targets };
    let zig = zig();
    for target in targets {
        let older = zig.filter(|_| target.ends_with("-linux-gnu"));
        let binary = build(root, (*target != own || older.is_some()).then_some(target), older)?;
        let folder = gather(root, &binary, target, *target == own)?;
        println!("{}", folder.display());
    }
    Ok(())
}

/// The triple that rustc builds for.
fn host() -> io::Result<String> {
    let output = Command::new("rustc").arg("-vV").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).ok_or_else(|| io::Error::other("rustc -vV names no host"))
}

/// How Zig is called, if it is here: as a linker and a compiler of C it makes programs for an older C library than this system's.
fn zig() -> Option<&'static str> {
    let answers = |words: &&str| {
        let mut words = words.split(' ');
        let program = words.next().unwrap_or_default();
        Command::new(program).args(words).arg("version").output().is_ok_and(|output| output.status.success())
    };
    ["zig", "python3 -m ziglang"].into_iter().find(answers)
}

/// Lets `cargo` link and compile C for `target` with Zig, through scripts below `folder`.
#[cfg(unix)]
fn link_with(command: &mut Command, zig: &str, folder: &Path, target: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(folder)?;
    let triple = target.replacen("-unknown", "", 1);
    let (major, minor) = GLIBC;
    // Zig has an unwinder of its own, and takes the target in its own words.
    let compiler = format!(
        "#!/bin/sh\nfor a; do shift; case \"$a\" in --target=*) ;; -lgcc_s) set -- \"$@\" -lunwind ;; *) set -- \"$@\" \"$a\" ;; esac; done\n\
         exec {zig} cc -target {triple}.{major}.{minor} \"$@\"\n"
    );
    let plain = target.replace('-', "_");
    let linker = format!("CARGO_TARGET_{}_LINKER", plain.to_uppercase());
    let archiver = format!("#!/bin/sh\nexec {zig} ar \"$@\"\n");
    for (name, text, variables) in [
        (format!("cc-{target}"), compiler, vec![linker, format!("CC_{plain}")]),
        (format!("ar-{target}"), archiver, vec![format!("AR_{plain}")]),
    ] {
        let script = folder.join(name);
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        variables.iter().for_each(|variable| _ = command.env(variable, &script));
    }
    Ok(())
}

#[cfg(not(unix))]
fn link_with(_: &mut Command, _: &str, _: &Path, _: &str) -> io::Result<()> {
    Ok(())
}

/// Builds the binary for this machine, or for a target; with Zig, for the oldest C library.
fn build(root: &Path, target: Option<&String>, zig: Option<&str>) -> io::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(["build", "--release", "--locked", "-p", "prospect"]);
    let mut built = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    if let (Some(target), Some(zig)) = (target, zig) {
        link_with(&mut command, zig, &built.join("zig"), target)?;
    }
    if let Some(target) = target {
        command.args(["--target", target]);
        built.push(target);
    }
    done(&mut command)?;
    let windows = target.map_or(cfg!(windows), |target| target.contains("windows"));
    Ok(built.join("release").join(if windows { "prospect.exe" } else { "prospect" }))
}

fn done(command: &mut Command) -> io::Result<()> {
    match command.status()?.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{command:?} failed"))),
    }
}

/// Everything for one target, checked. Completions and pages are asked of the binary itself, where it runs here.
fn gather(root: &Path, binary: &Path, target: &str, runs_here: bool) -> io::Result<PathBuf> {
    let name = format!("prospect-{}-{target}", env!("CARGO_PKG_VERSION"));
    let dist = root.join("dist");
    let folder = dist.join(&name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let bytes = fs::read(binary)?;
    check(&bytes, target)?;
    let program = folder.join(binary.file_name().unwrap_or_default());
    fs::copy(binary, &program)?;
    for companion in COMPANIONS {
        fs::copy(root.join(companion), folder.join(companion))?;
    }
    if runs_here {
        fs::create_dir_all(folder.join("completions"))?;
        for (shell, file) in SHELLS {
            let output = Command::new(&program).args(["completions", shell]).output()?;
            fs::write(folder.join("completions").join(file), output.stdout)?;
        }
        done(Command::new(&program).arg("__man").arg(folder.join("man")))?;
    }
    fs::write(folder.join("SHA256SUMS"), sums(&folder)?)?;
    let archive = dist.join(format!("{name}.tar.gz"));
    done(Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&dist).arg(&name))?;
    let line = format!("{}  {name}.tar.gz\n", sha256(&fs::read(&archive)?));
    fs::write(dist.join(format!("{name}.tar.gz.sha256")), line)?;
    Ok(folder)
}

fn check(bytes: &[u8], target: &str) -> io::Result<()> {
    println!("{target}: {:.1} MB", bytes.len() as f64 / 1e6);
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("{} bytes, at most {LARGEST} are wanted", bytes.len())));
    }
    if let Some((major, minor)) = newest_glibc(bytes) {
        let note = if (major, minor) > GLIBC {
            ": for older systems install Zig (python3 -m pip install ziglang) and run this again"
        } else {
            ""
        };
        println!("{target}: needs glibc {major}.{minor}{note}");
    }
    Ok(())
}

/// The newest version of the C library among the names of versions in a binary.
fn newest_glibc(bytes: &[u8]) -> Option<(u32, u32)> {
    const NAME: &[u8] = b"GLIBC_";
    let starts = (0..bytes.len().saturating_sub(NAME.len())).filter(|&at| bytes[at..].starts_with(NAME));
    starts.filter_map(|at| version(&bytes[at + NAME.len()..])).max()
}

fn version(bytes: &[u8]) -> Option<(u32, u32)> {
    let end = bytes.iter().take(12).position(|b| !b.is_ascii_digit() && *b != b'.')?;
    let mut numbers = std::str::from_utf8(&bytes[..end]).ok()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A line for every file below the folder, as `sha256sum` writes and checks them.
fn sums(folder: &Path) -> io::Result<String> {
    let (mut open, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let line = |file: &PathBuf| {
        let name = file.strip_prefix(folder).unwrap_or(file).to_string_lossy().replace('\\', "/");
        Ok(format!("{}  {name}\n", sha256(&fs::read(file)?)))
    };
    files.iter().map(line).collect()
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_library_and_the_hash_are_found() {
        assert_eq!(newest_glibc(b"..GLIBC_2.17\0GLIBC_2.34\0GLIBC_2.4\0GLIBC_PRIVATE\0"), Some((2, 34)));
        assert_eq!(newest_glibc(b"nothing"), None);
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
