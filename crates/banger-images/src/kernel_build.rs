//! The lean kernel: built here from Debian's own kernel source, with everything that a guest needs
//! built in, so that nothing is loaded at boot.
//!
//! The source comes as a package that apt has verified. It is configured and compiled in a private
//! directory by programs of the host's, with an empty environment. What identifies a build (date,
//! user, host) is fixed, so that one source and one compiler give one digest.

use crate::apt::{Lists, PrivateApt, architecture};
use crate::child::{Job, Line, find_tool};
use crate::files::{create_directories, read_capped, write_new};
use crate::kernel_config::{Fragment, LEAN, kernel_name, parse_release};
use crate::kernel_draft::Draft;
use crate::kernel_source::{self, SourceTree};
use crate::progress::{ProgressSink, Step};
use crate::source::DebianSource;
use crate::{ImagesError, Kernel, Store, elf};
use banger_names::KernelName;
use std::ffi::OsString;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Debian's package that always depends on the newest source.
const METAPACKAGE: &str = "linux-source";
/// Room for the package, the unpacked source and what is compiled.
const ROOM: u64 = 3 << 30;
/// The largest `.config` and `modules.builtin`.
const LIST_MAX: u64 = 16 << 20;
/// How often progress is told.
const INTERVAL: Duration = Duration::from_millis(200);
/// How many of the compiler's complaints are kept for a failure.
const COMPLAINTS: usize = 4;

/// The programs that a build runs, and the Debian packages that have them.
const TOOLS: [(&str, &str); 9] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("perl", "perl-base"),
    ("gzip", "gzip"),
    ("strip", "binutils"),
];
/// The headers that programs of the kernel's build are compiled with.
const HEADERS: [(&str, &str); 2] = [
    ("/usr/include/stdio.h", "libc6-dev"),
    ("/usr/include/gelf.h", "libelf-dev"),
];

/// What is asked of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelBuildOptions {
    /// What the kernel is called; `lean-VERSION` when left out.
    pub name: Option<KernelName>,
    /// How many compilers run at once; as many as there are CPUs when left out.
    pub jobs: Option<NonZeroU16>,
}

/// The Debian packages that building a kernel needs and this host lacks, each once.
pub fn missing_kernel_build_packages() -> Vec<&'static str> {
    missing_packages(
        |program, package| find_tool(program, package).is_ok(),
        |header| Path::new(header).is_file(),
    )
}

fn missing_packages(
    has_tool: impl Fn(&'static str, &'static str) -> bool,
    has_header: impl Fn(&str) -> bool,
) -> Vec<&'static str> {
    let tools = TOOLS
        .iter()
        .filter(|(program, package)| !has_tool(program, package));
    let headers = HEADERS.iter().filter(|(header, _)| !has_header(header));
    let mut packages: Vec<&str> = tools.chain(headers).map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn check_tools(missing: &[&str]) -> Result<(), ImagesError> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(ImagesError::Unsupported {
        what: "build a kernel",
        reason: format!("these packages are not installed: {}", missing.join(", ")),
        fix: format!("sudo apt-get install {}", missing.join(" ")),
    })
}

impl Store {
    /// Builds the lean kernel from the newest source of the release, verified by the archive's
    /// signatures, and stores it. It takes minutes. The first kernel becomes the default.
    pub fn kernel_build(
        &self,
        source: &DebianSource,
        options: &KernelBuildOptions,
        progress: &dyn ProgressSink,
    ) -> Result<Kernel, ImagesError> {
        architecture()?;
        check_tools(&missing_kernel_build_packages())?;
        let fragment = Fragment::parse(LEAN)?;
        self.check_space(ROOM)?;
        let scratch = self.scratch()?;
        let apt = PrivateApt::create(scratch.join("apt"), source)?;
        apt.update(Lists::Packages, progress)?;
        let package = apt.dependency(METAPACKAGE, "linux-source-", progress)?;
        let file = apt.download(&package, "download kernel source", progress)?;
        let origin = file.file_name().unwrap_or_default().to_string_lossy();
        let origin = format!(
            "built from {} ({})",
            source.describe(),
            origin.replace("%3a", ":")
        );
        let tree = kernel_source::unpack(&file, scratch.join("source"), self.limits(), progress)?;
        let build = Build {
            tree,
            home: scratch.join("home"),
            jobs: options.jobs.unwrap_or_else(cpus),
            sink: progress,
        };
        let release = build.configure(&fragment)?;
        let name = match &options.name {
            Some(name) => name.clone(),
            None => KernelName::parse(&kernel_name(&release))?,
        };
        build.compile()?;
        let draft = Draft::create(scratch, release)?;
        let vmlinux = read_capped(&build.strip()?, self.limits().vmlinux_bytes)?;
        elf::check_executable(&vmlinux).map_err(|reason| ImagesError::refused(package, reason))?;
        write_new(&draft.path("vmlinux"), &vmlinux)?;
        // It has no modules, but says by this list which ones it does not need.
        let builtin = read_capped(&build.tree.directory.join("modules.builtin"), LIST_MAX)?;
        create_directories(&draft.path("modules"))?;
        write_new(&draft.path("modules/modules.builtin"), &builtin)?;
        draft.commit(self, name, origin, progress)
    }
}

fn cpus() -> NonZeroU16 {
    std::thread::available_parallelism()
        .ok()
        .and_then(|count| NonZeroU16::try_from(count).ok())
        .unwrap_or(NonZeroU16::MIN)
}

/// A source being built.
struct Build<'a> {
    tree: SourceTree,
    /// HOME and TMPDIR of what runs.
    home: PathBuf,
    jobs: NonZeroU16,
    sink: &'a dyn ProgressSink,
}

impl Build<'_> {
    /// Lays the fragment over an empty configuration; returns the kernel's release.
    fn configure(&self, fragment: &Fragment) -> Result<String, ImagesError> {
        create_directories(&self.home)?;
        let step = Step::begin(self.sink, "configure kernel", "", None);
        let file = self.home.join("lean.config");
        write_new(&file, fragment.to_config().as_bytes())?;
        let mut all = OsString::from("KCONFIG_ALLCONFIG=");
        all.push(&file);
        self.make("configure the kernel", &[all, "allnoconfig".into()])
            .run(None, self.sink, &mut |_| {})?;
        let path = self.tree.directory.join(".config");
        let config = read_capped(&path, LIST_MAX)?;
        fragment.check(&String::from_utf8_lossy(&config))?;
        step.check()?;
        let mut release = String::new();
        self.make(
            "ask for the kernel's release",
            &["-s".into(), "kernelrelease".into()],
        )
        .run(None, self.sink, &mut |line| {
            if let Line::Stdout(text) = line {
                release = text.to_owned();
            }
        })?;
        parse_release(&release)
    }

    /// Compiles `vmlinux`, telling how many files are made.
    fn compile(&self) -> Result<(), ImagesError> {
        let mut step = Step::begin(self.sink, "build kernel", "", None);
        let mut files = 0_u32;
        let mut told = Instant::now();
        let mut complaints = Vec::new();
        let jobs = format!("-j{}", self.jobs);
        let job = self.make("build the kernel", &[jobs.into(), "vmlinux".into()]);
        let result = job.run(None, self.sink, &mut |line| match line {
            Line::Stdout(text) => {
                let Some(made) = made_file(text) else { return };
                files += 1;
                if told.elapsed() >= INTERVAL {
                    told = Instant::now();
                    step.detail(format!("{files} files, {made}"), None, None);
                }
            }
            Line::Stderr(text) => {
                if text.contains("rror: ") && complaints.len() < COMPLAINTS {
                    complaints.push(printable(text));
                }
            }
        });
        result.map_err(|error| with_complaints(error, &complaints))
    }

    /// Writes the kernel without its symbol tables, which nothing that boots it reads.
    fn strip(&self) -> Result<PathBuf, ImagesError> {
        let _step = Step::begin(self.sink, "strip kernel", "", None);
        let to = self.home.join("vmlinux");
        let args = ["-o".into(), to.clone().into(), "vmlinux".into()];
        self.job("strip the kernel", "strip", "binutils", args.into())
            .run(None, self.sink, &mut |_| {})?;
        Ok(to)
    }

    /// `make` in the source. What it would write of this host and moment is given to it instead.
    fn make(&self, what: &'static str, args: &[OsString]) -> Job<'_> {
        let date = format!("KBUILD_BUILD_TIMESTAMP={}", utc(self.tree.made_unix));
        let mut all: Vec<OsString> = [
            "ARCH=x86_64",
            "LOCALVERSION=",
            "KBUILD_BUILD_VERSION=1",
            "KBUILD_BUILD_USER=banger",
            "KBUILD_BUILD_HOST=banger",
            &date,
        ]
        .map(OsString::from)
        .into();
        all.extend_from_slice(args);
        self.job(what, "make", "make", all)
    }

    fn job(
        &self,
        what: &'static str,
        program: &'static str,
        package: &'static str,
        args: Vec<OsString>,
    ) -> Job<'_> {
        Job {
            what,
            program,
            package,
            args,
            env: vec![("TMPDIR", self.home.clone().into())],
            home: &self.home,
            directory: self.tree.directory.clone(),
            grace: Duration::from_secs(1),
        }
    }
}

/// The file that a line of the build's output says is made: `  CC      kernel/fork.o`.
fn made_file(line: &str) -> Option<String> {
    let mut words = line.strip_prefix("  ")?.split_ascii_whitespace();
    let verb = words.next()?;
    let is_verb = verb
        .bytes()
        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    let file = words.last().filter(|_| is_verb)?;
    Some(printable(file))
}

fn printable(text: &str) -> String {
    text.chars()
        .take(300)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Puts what the compiler said before what make made of it.
fn with_complaints(error: ImagesError, complaints: &[String]) -> ImagesError {
    match error {
        ImagesError::Command {
            what,
            program,
            status,
            ..
        } if !complaints.is_empty() => ImagesError::Command {
            what,
            program,
            status,
            stderr: complaints.join("; "),
        },
        other => other,
    }
}

/// A time as `2026-07-11 10:16:37 UTC`, which `date` reads too.
fn utc(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    // Civil from days, with years that begin in March so that leap days come last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_tools_are_named_by_package_once() {
        let missing = missing_packages(
            |program, _| !matches!(program, "ld" | "strip" | "flex"),
            |header| header != "/usr/include/gelf.h",
        );
        assert_eq!(missing, ["binutils", "flex", "libelf-dev"]);
        let error = check_tools(&missing).unwrap_err();
        assert!(error.to_string().contains("flex"), "{error}");
        assert_eq!(
            error.hint().unwrap(),
            "sudo apt-get install binutils flex libelf-dev"
        );
        check_tools(&missing_packages(|_, _| true, |_| true)).unwrap();
    }

    #[test]
    fn files_made_are_read_from_the_builds_output() {
        for (line, file) in [
            ("  CC      kernel/fork.o", Some("kernel/fork.o")),
            (
                "  HOSTCC  scripts/basic/fixdep",
                Some("scripts/basic/fixdep"),
            ),
            ("  AR      built-in.a", Some("built-in.a")),
            ("make[1]: Entering directory", None),
            ("  warning: something", None),
            ("", None),
        ] {
            assert_eq!(made_file(line).as_deref(), file, "{line:?}");
        }
    }

    #[test]
    fn times_are_written_as_date_reads_them() {
        for (unix, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (1_783_764_997, "2026-07-11 10:16:37 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(unix), text);
        }
    }

    #[test]
    fn a_failed_build_says_what_the_compiler_said() {
        let error = ImagesError::Command {
            what: "build the kernel",
            program: "make",
            status: "exit status: 2".into(),
            stderr: "make: *** [Makefile:1] Error 2".into(),
        };
        let said = ["x.c:1:1: error: no".to_owned()];
        let error = with_complaints(error, &said).to_string();
        assert!(error.contains("x.c:1:1: error: no"), "{error}");
    }
}
