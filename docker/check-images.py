#!/usr/bin/python3
"""Checks docker/Dockerfile and docker/compose.yaml in seconds, without a container engine.

It asks cargo whether every `cargo build` of the Dockerfile names packages, features and binaries that exist, apt
whether every package is in the release that the image is made of, and git whether what is copied is in the
repository. Then it checks what compose relies on: stages, mounts, volumes, health checks, and who is told of alerts.

    docker/check-images.py [--root FOLDER]
"""

import fnmatch
import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import yaml

ROOT = Path(sys.argv[2]) if sys.argv[1:2] == ["--root"] else Path(__file__).resolve().parent.parent
# Binaries that write or read the gallery.
GALLERY = ["sightline-index", "sightline-api", "sightline"]
ROLES = ["ingest", "embed", "index", "api", "sightline"]
problems: list[str] = []


def problem(text):
    problems.append(text)


def run(*command, **more):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **more)


# ---- the Dockerfile


class Stage:
    """A stage of the Dockerfile: its base, and its instructions as (word, rest)."""

    def __init__(self, name, base):
        self.name, self.base, self.instructions = name, base, []

    def all(self, word):
        return [rest for known, rest in self.instructions if known == word]


def dockerfile():
    """The global ARGs and the stages, in their order."""
    lines = [line for line in (ROOT / "docker/Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    args, stages = {}, {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            current = stages[name.strip()] = Stage(name.strip(), base.strip())
        elif word == "ARG" and not stages:
            name, _, value = rest.partition("=")
            args[name] = value
        elif word:
            current.instructions.append((word, rest.strip()))
    return args, stages


ARGS, STAGES = dockerfile()


def chain(name, variant):
    """The stages that `name` is made of, the stage itself first, and the image at their root."""
    found = []
    while True:
        values = ARGS | {"VARIANT": variant}
        name = re.sub(r"\$\{(\w+)\}", lambda m: values[m[1]], name)
        if name not in STAGES:
            return found, name
        found.append(STAGES[name])
        name = STAGES[name].base


def environment(name, variant, key):
    for stage in chain(name, variant)[0]:
        for rest in stage.all("ENV"):
            if value := re.search(rf'\b{key}="?([^"\s]*)', rest):
                return value[1]
    return ""


# ---- cargo


@functools.cache
def packages():
    answer = run("cargo", "metadata", "--locked", "--no-deps", "--format-version", "1")
    if answer.returncode:
        sys.exit(f"error: cargo metadata: {answer.stderr}")
    return {package["name"]: package for package in json.loads(answer.stdout)["packages"]}


def cargo_calls(stage, variant):
    """The arguments of each call of cargo, as a shell splits them."""
    for text in stage.all("RUN"):
        parts = [part.strip() for part in re.split(r"&&|;", re.sub(r"--mount=\S+", "", text))]
        wanted = [part for part in parts if re.match(r"cargo |\w+=", part)]
        script = 'cargo() { for word; do printf "%s\\n" "$word"; done; echo; }\n' + "\n".join(wanted)
        said = run("sh", "-euc", script, env={"FEATURES": environment(stage.name, variant, "FEATURES")})
        if said.returncode:
            problem(f"stage {stage.name}: the shell refuses a RUN: {said.stderr.strip()}")
        yield from (call.split("\n") for call in said.stdout.split("\n\n") if call.strip())


def value_of(call, *names):
    return next((call[at + 1] for at, word in enumerate(call[:-1]) if word in names), "")


def check_cargo(stage, variant):
    """Checks each call of cargo; returns the binaries that are built."""
    built = set()
    for call in cargo_calls(stage, variant):
        name, binary = value_of(call, "-p", "--package"), value_of(call, "--bin")
        features = [f for f in re.split("[ ,]+", value_of(call, "--features", "-F")) if f]
        shown = f"stage {stage.name}, variant {variant}: cargo {' '.join(call)}"
        package = packages().get(name)
        if call[0] != "build" or "--locked" not in call or package is None:
            problem(f"{shown}: not `cargo build --locked -p` of a package that exists")
            continue
        bare = ["--no-default-features"] if "--no-default-features" in call else []
        listed = ["--features", ",".join(features)] if features else []
        tree = run("cargo", "tree", "--locked", "--package", name, *bare, *listed, "--edges", "normal",
                   "--prefix", "none", "--format", "{p} {f}")
        if tree.returncode:
            problem(f"{shown}: {tree.stderr.strip()}")
            continue
        if binary in GALLERY and not re.search(r"^object_store \S+ \S*\baws\b", tree.stdout, re.M):
            problem(f"{shown}: {binary} cannot use a gallery on S3, though its configuration offers one")
        # What the named features turn on in the package itself.
        on, more = set(), features + ([] if bare else ["default"])
        while more:
            feature = more.pop().removeprefix(f"{name}/")
            if feature in package["features"] and feature not in on:
                on.add(feature)
                more += package["features"][feature]
        target = next((t for t in package["targets"] if t["name"] == binary and "bin" in t["kind"]), None)
        if target is None:
            problem(f"{shown}: {name} has no binary {binary}")
        elif missing := set(target.get("required-features", [])) - on:
            problem(f"{shown}: {binary} needs the features {', '.join(sorted(missing))}")
        built.add(binary)
    return built


def check_builds():
    for stage in STAGES.values():
        for variant in ["cpu", "cuda"]:
            built = check_cargo(stage, variant)
            copied = set(re.findall(r"target/release/([\w-]+)", " ".join(stage.all("RUN"))))
            if built != copied:
                problem(f"stage {stage.name}: builds {sorted(built)} and copies {sorted(copied)}")


def check_versions():
    setup = (ROOT / "docker/setup.sh").read_text()
    wanted = re.search(r'^rust-version = "([\d.]+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    if ARGS["RUST_VERSION"] != wanted:
        problem(f"the Dockerfile builds with Rust {ARGS['RUST_VERSION']}, Cargo.toml asks for {wanted}")
    text = (ROOT / "docker/Dockerfile").read_text()
    for name, value in re.findall(r"^(\w+_sha256|rustup_version|detector_package)=(\S+)$", setup, re.M):
        if name != "vtest_sha256" and value not in text:
            problem(f"setup.sh and the Dockerfile differ in {name}")


# ---- files


@functools.cache
def context():
    """The files of the repository that docker/Dockerfile.dockerignore lets through."""
    ignored = []
    for line in (ROOT / "docker/Dockerfile.dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            ignored.append(line.lstrip("/"))
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.split("\n")
    kept = set()
    for path in filter(None, listed):
        # A pattern also ignores everything below what it matches; `**/` stands for any depth, none included.
        parts = path.split("/")
        above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        shapes = [(p, shape) for p in ignored for shape in ([p, p[3:]] if p.startswith("**/") else [p])]
        if not any(fnmatch.fnmatch(a, shape) and (p.startswith("**/") or a.count("/") == shape.count("/"))
                   for a in above for p, shape in shapes):
            kept.add(path)
    return kept


def check_copies():
    for stage in STAGES.values():
        for rest in stage.all("COPY"):
            words = rest.split()
            source = next((w.removeprefix("--from=") for w in words if w.startswith("--from=")), None)
            for path in [w for w in words if not w.startswith("--")][:-1]:
                if source is None:
                    clean = path.rstrip("/")
                    if clean != "." and not any(f == clean or f.startswith(f"{clean}/") for f in context()):
                        problem(f"stage {stage.name} copies {path}, which is not in the build's context")
                elif source not in STAGES:
                    problem(f"stage {stage.name} copies from {source}, which is no stage")
                elif Path(path).name not in " ".join(STAGES[source].all("RUN")):
                    problem(f"stage {stage.name} copies {path}, which {source} does not make")


def check_sources():
    """Whatever cargo compiles must be in the context: targets, and files that sources include."""
    for package in packages().values():
        for target in package["targets"]:
            path = os.path.relpath(target["src_path"], ROOT)
            # Tests are found by their place, so that none is missed where there is none.
            if "test" not in target["kind"] and path not in context():
                problem(f"{package['name']}: {path} is not in the build's context")
        for source in Path(package["manifest_path"]).parent.glob("src/**/*.rs"):
            for included in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', source.read_text().split("#[cfg(test)]")[0]):
                path = os.path.relpath(source.parent / included, ROOT)
                if path not in context():
                    problem(f"{os.path.relpath(source, ROOT)} includes {path}, which is not in the build's context")


# ---- apt


def check_packages():
    """Asks this machine's apt; that is an answer for its own release alone."""
    here = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.M))
    wanted = {}
    for stage in STAGES.values():
        for text in stage.all("RUN"):
            for names in re.findall(r"apt-get install ([^&;]*)", text):
                for variant in ["cpu", "cuda"]:
                    image = chain(stage.name, variant)[1]
                    release = re.search(r"bookworm|trixie|ubuntu[\d.]+", image)
                    wanted.setdefault(release[0] if release else image, set()).update(
                        n for n in names.split() if not n.startswith("-"))
    if {re.search(r"bookworm|trixie", chain(n, "cpu")[1])[0] for n in ["build", "build-cameras", *ROLES]} != {"bookworm"}:
        problem("an image is compiled on another Debian than it runs on")
    for release, names in sorted(wanted.items()):
        if release not in (here.get("VERSION_CODENAME"), f"{here.get('ID')}{here.get('VERSION_ID')}"):
            print(f"not checked: {len(names)} packages of {release} (this machine runs {here.get('PRETTY_NAME')})")
            continue
        listed = run("apt-cache", "madison", *sorted(names)).stdout
        found = set(re.findall(rf"^ *(\S+) \|.*\b{release}", listed, re.M))
        if not found:
            print(f"not checked: {len(names)} packages of {release} (apt has no lists here: apt-get update)")
        for name in sorted(names - found if found else []):
            problem(f"{release} has no package {name}")


# ---- health checks and compose


def check_health():
    """The health check must follow /readyz, whatever /healthz says."""
    answers = {"/healthz": 200, "/readyz": 200}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(answers.get(self.path, 404))
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for ready, expected in [(200, True), (503, False)]:
        answers["/readyz"] = ready
        said = run("bash", "docker/healthcheck.sh", str(server.server_port))
        if (said.returncode == 0) != expected:
            problem(f"docker/healthcheck.sh exits {said.returncode} when /readyz answers {ready}")
    server.shutdown()
    server.server_close()
    if run("bash", "docker/healthcheck.sh", str(server.server_port)).returncode == 0:
        problem("docker/healthcheck.sh succeeds when nobody listens")
    for role in ROLES:
        check = STAGES[role].all("HEALTHCHECK")
        port = re.search(r'CMD \["healthcheck", "(\d+)"\]', check[0]) if check else None
        if not port or "--start-period=" not in check[0]:
            problem(f"stage {role} has no health check with a start period")
        elif port[1] not in " ".join(STAGES[role].all("EXPOSE")).split():
            problem(f"stage {role} asks port {port[1]}, which it does not serve")


def check_compose():
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    services, volumes = compose["services"], set(compose["volumes"])
    used = set()
    for name, service in services.items():
        mounted = {}
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            mounted[target] = source
            if source.startswith("."):
                path = os.path.normpath(f"docker/{source}")
                if not (ROOT / path).exists():
                    problem(f"compose: {name} mounts {path}, which does not exist")
            else:
                used.add(source)
        mounted |= {path.split(":")[0]: "tmpfs" for path in service.get("tmpfs", [])}
        if build := service.get("build"):
            if build["target"] not in STAGES:
                problem(f"compose: {name} is built from {build['target']}, which is no stage")
                continue
            for stage in chain(build["target"], "cpu")[0]:
                for folder in stage.all("VOLUME"):
                    if folder not in mounted:
                        problem(f"compose: {folder} of {name} lies in a volume without a name, which `down` leaves behind")
    if used != volumes:
        problem(f"compose: volumes used {sorted(used)}, declared {sorted(volumes)}")
    networks = set(compose["networks"])
    for name, service in services.items():
        joined = set(service.get("networks", []))
        if not joined or joined - networks:
            problem(f"compose: {name} is in the networks {sorted(joined)}")
        # Docker publishes no port of a container that is in internal networks alone.
        if "ports" in service and "outside" not in joined:
            problem(f"compose: {name} has a port and no network that leads out")
        if any(not str(port).startswith("127.0.0.1:") for port in service.get("ports", [])):
            problem(f"compose: a port of {name} is open beyond loopback")

    config = yaml.safe_load((ROOT / "docker/prometheus.yml").read_text())
    told = [target for manager in config.get("alerting", {}).get("alertmanagers", [])
            for static in manager["static_configs"] for target in static["targets"]]
    asked = [n for job in config["scrape_configs"] for dns in job.get("dns_sd_configs", []) for n in dns["names"]]
    if not told:
        problem("prometheus.yml: nobody is told of alerts")
    for host in {target.split(":")[0] for target in told} | set(asked):
        if host not in services or "inside" not in services[host]["networks"]:
            problem(f"prometheus.yml: {host} is no service that Prometheus reaches")
    shown = {target for service in ["prometheus"] for _, target, *_ in
             (volume.split(":") for volume in services[service]["volumes"])}
    for rules in config["rule_files"]:
        if f"/etc/prometheus/{rules}" not in shown:
            problem(f"prometheus.yml: {rules} is not mounted beside it")


for check in [check_builds, check_versions, check_copies, check_sources, check_packages, check_health, check_compose]:
    check()
for text in problems:
    print(f"error: {text}", file=sys.stderr)
if problems:
    sys.exit(1)
print("all can be built")
