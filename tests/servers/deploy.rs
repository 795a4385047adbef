//! What lies under `deploy`: manifests that Kubernetes takes, and job scripts under a real Slurm.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use farshore::policy::Policy;
use serde_json::Value;

use crate::support::{recovery::noise, server};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn python(code: &str) -> Command {
    let mut command = Command::new(server("FARSHORE_TEST_PYTHON"));
    command.args(["-c", code]);
    command
}

/// All documents of the manifests.
fn manifests() -> Vec<Value> {
    let code = "import sys, json, yaml\nprint(json.dumps([d for f in sys.argv[1:] for d in yaml.safe_load_all(open(f))]))";
    let files = fs::read_dir(root().join("deploy/kubernetes")).unwrap().map(|file| file.unwrap().path());
    let documents: Value = serde_json::from_str(&run(python(code).args(files))).unwrap();
    documents.as_array().unwrap().clone()
}

#[test]
fn kubernetes_takes_the_manifests_with_no_field_that_it_does_not_know() {
    let code = "import sys, yaml, kubernetes_validate as v\n\
                n = 0\n\
                for version in ['1.31', '1.37']:\n\
                \x20 for f in sys.argv[1:]:\n\
                \x20   for d in yaml.safe_load_all(open(f)):\n\
                \x20     v.validate(d, version, strict=True); n += 1\n\
                print(n)";
    let files = fs::read_dir(root().join("deploy/kubernetes")).unwrap().map(|file| file.unwrap().path());
    assert_eq!(run(python(code).args(files)).trim(), "12");
}

#[test]
fn the_manifests_hold_a_sound_policy_and_commands_that_exist() {
    let mut commands = 0;
    for document in manifests() {
        if document["kind"] == "ConfigMap" {
            let text = document["data"]["mattermost-eu.toml"].as_str().unwrap();
            assert_eq!(Policy::parse(text, "manifest").unwrap().name, "mattermost-eu");
        }
        if document["kind"] == "CronJob" {
            let pod = &document["spec"]["jobTemplate"]["spec"]["template"]["spec"];
            let arguments = pod["containers"][0]["args"].as_array().unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_farshore"));
            command.args(arguments.iter().map(|argument| argument.as_str().unwrap())).env("JOB_COMPLETION_INDEX", "0");
            let output = command.current_dir("/").env("XDG_CACHE_HOME", "/nonexistent").output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // Understood, up to the policy, which is not there.
            assert!(
                !output.status.success() && said.contains("mattermost-eu: the policy cannot be read") && !said.contains("Usage"),
                "{said}"
            );
            commands += 1;
        }
    }
    assert_eq!(commands, 3);
}

/// A Slurm of one machine with daemons of its own, on free ports.
struct Slurm {
    directory: tempfile::TempDir,
    daemons: Vec<Child>,
}

impl Drop for Slurm {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Slurm {
    fn start() -> Self {
        // Its daemons become the users that their jobs belong to.
        assert_eq!(run(Command::new("id").arg("-u")).trim(), "0", "a Slurm of our own needs root");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["spool", "state", "run"] {
            fs::create_dir(path.join(name)).unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(path.join("munge.key"), noise(1024, 1)).unwrap();
        fs::set_permissions(path.join("munge.key"), fs::Permissions::from_mode(0o400)).unwrap();
        let host = run(&mut Command::new("hostname"));
        let host = host.trim().split('.').next().unwrap();
        let here = path.display();
        let (controller, node) = (free_port(), free_port());
        // A job that is queued again waits until its old credential has expired: two minutes, if nothing else is said.
        let configuration = format!(
            "ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\nSlurmdUser=root\n\
             SlurmctldPort={controller}\nSlurmdPort={node}\n\
             AuthType=auth/munge\nAuthInfo=socket={here}/run/munge.sock,cred_expire=5\nCredType=cred/munge\n\
             StateSaveLocation={here}/state\nSlurmdSpoolDir={here}/spool\n\
             SlurmctldPidFile={here}/run/slurmctld.pid\nSlurmdPidFile={here}/run/slurmd.pid\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSwitchType=switch/none\nMpiDefault=none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nSlurmdParameters=config_overrides\n\
             SchedulerParameters=sched_interval=1,batch_sched_delay=0\nReturnToService=2\n\
             NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN\n\
             PartitionName=p Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        );
        fs::write(path.join("slurm.conf"), configuration).unwrap();
        let mut slurm = Self { directory, daemons: Vec::new() };
        let path = slurm.path();
        let option = |name: &str, file: &str| format!("--{name}={}", path.join(file).display());
        let munged = [
            "--foreground".to_owned(),
            "--force".to_owned(),
            option("socket", "run/munge.sock"),
            option("key-file", "munge.key"),
            option("pid-file", "run/munged.pid"),
            option("log-file", "munged.log"),
            option("seed-file", "run/munge.seed"),
        ];
        slurm.daemon("munged", &munged);
        slurm.daemon("slurmctld", &["-D".to_owned(), "-c".to_owned()]);
        slurm.daemon("slurmd", &["-D".to_owned(), "-N".to_owned(), host.to_owned()]);
        slurm.wait_for("its node is not idle", |slurm| slurm.try_tool("sinfo", &["-h", "-o", "%t"]).trim() == "idle");
        slurm
    }

    fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    fn daemon(&mut self, name: &str, arguments: &[String]) {
        let log = fs::File::create(self.path().join(format!("{name}.out"))).unwrap();
        let mut command = Command::new(format!("/usr/sbin/{name}"));
        command.args(arguments).env("SLURM_CONF", self.path().join("slurm.conf")).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.daemons.push(child.unwrap_or_else(|error| panic!("{name}, which testbed/install brings: {error}")));
        if name == "munged" {
            self.wait_for("munged has no socket", |slurm| slurm.path().join("run/munge.sock").exists());
        }
    }

    #[track_caller]
    fn wait_for(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            if start.elapsed() > Duration::from_secs(120) {
                let log = |name: &str| fs::read_to_string(self.path().join(name)).unwrap_or_default();
                let jobs = self.try_tool("squeue", &["-h", "-o", "%i %t %r"]);
                panic!("{what}: {jobs}{}{}{}", log("munged.out"), log("slurmctld.out"), log("slurmd.out"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(format!("/usr/bin/{name}"));
        command.env("SLURM_CONF", self.path().join("slurm.conf")).current_dir(self.path());
        command
    }

    fn try_tool(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.command(name).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

const OBJECTS: usize = 1500;

#[test]
fn a_job_array_of_slurm_makes_one_point_though_a_worker_is_killed_and_queued_again() {
    let slurm = Slurm::start();
    let path = slurm.path();
    let bucket = path.join("bucket");
    for number in 0..OBJECTS {
        let file = bucket.join(format!("{:02}/{number:05}", number % 16));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, noise(20_000, number as u64)).unwrap();
    }
    let policy = path.join("policy.toml");
    let text = format!(
        "name = \"p\"\nencryption = \"none\"\n\
         [[source]]\nname = \"b\"\nkind = \"bucket\"\nstore = {{ kind = \"filesystem\", path = \"{0}\" }}\n\
         [[site]]\nname = \"s\"\nstore = {{ kind = \"filesystem\", path = \"{1}\" }}\n",
        bucket.display(),
        path.join("site").display()
    );
    fs::write(&policy, text).unwrap();
    let farshore = env!("CARGO_BIN_EXE_farshore");
    let cache = path.join("cache");
    let ours = |arguments: &[&str]| run(Command::new(farshore).args(arguments).env("XDG_CACHE_HOME", &cache));
    let policy = policy.to_str().unwrap();
    ours(&["init", policy, "--create"]);
    // The second task's worker is killed as if by its machine, and Slurm queues the task again.
    let wrapper = path.join("farshore");
    let script = format!(
        "#!/bin/bash\n\
         echo \"${{SLURM_ARRAY_TASK_ID:-commit}} ${{SLURM_RESTART_COUNT:-0}}\" >> {0}/ran\n\
         export XDG_CACHE_HOME={0}/cache-${{SLURM_ARRAY_TASK_ID:-commit}}\n\
         [ \"${{SLURM_ARRAY_TASK_ID:-}}${{SLURM_RESTART_COUNT:-}}\" = 1 ] || exec {farshore} \"$@\"\n\
         {farshore} \"$@\" &\n\
         while kill -0 $! && [ \"$(awk '/^rchar/ {{ print $2 }}' /proc/$!/io)\" -lt 1500000 ]; do :; done\n\
         kill -9 $! && echo killed >> {0}/ran\n\
         scontrol requeue \"$SLURM_JOB_ID\"\n\
         exec sleep 600\n",
        path.display()
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let scripts = root().join("deploy/slurm");
    let submit = |options: &[&str], script: &str| {
        let mut command = slurm.command("sbatch");
        command.env("FARSHORE", &wrapper).arg("--parsable").args(options).args(["-o", "job-%A-%a.out", "--export=ALL"]);
        run(command.arg(scripts.join(script)).args([policy, "s", "4"])).trim().to_owned()
    };
    let shards = submit(&["--array=0-3"], "shards.sbatch");
    submit(&[&format!("--dependency=afterok:{shards}")], "commit.sbatch");
    slurm.wait_for("the jobs do not end", |slurm| slurm.try_tool("squeue", &["-h"]).trim().is_empty());
    let said: String = fs::read_dir(&path)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "out"))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let ran = fs::read_to_string(path.join("ran")).unwrap();
    for line in ["0 0", "1 0", "killed", "1 1", "2 0", "3 0", "commit 0"] {
        assert_eq!(ran.lines().filter(|ran| *ran == line).count(), 1, "{line} in {ran:?}: {said}");
    }
    let points: Value = serde_json::from_str(&ours(&["points", policy, "--json"])).unwrap();
    assert_eq!(points.as_array().map(Vec::len), Some(1), "{points}: {said}");
    let restored = path.join("restored");
    ours(&["restore", policy, "latest", "--to", restored.to_str().unwrap()]);
    assert_eq!(run(Command::new("diff").args(["-r", "--exclude=.farshore"]).arg(&bucket).arg(&restored)), "");
}
