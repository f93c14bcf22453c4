//! The files in `deploy/`, the compose file and the Dockerfile: what they start is started here with their own words and variables, without
//! containers.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::queries::engines::duckdb;
use crate::support::bygone::Bygone;
use crate::support::moto::{BUCKET, Moto, moto_python};
use crate::support::postgres::{DATABASE, Postgres};
use crate::support::process::{Program, eventually};
use crate::support::scratch::Scratch;

fn path(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn file(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

/// The documents of a YAML file.
fn yaml(name: &str) -> Vec<Value> {
    let program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let read = Program::new(moto_python()).args(["-c", program]).arg(path(name)).finish();
    assert!(read.status.success(), "{name}: {}", String::from_utf8_lossy(&read.stderr));
    serde_json::from_slice(&read.stdout).unwrap()
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|one| text(one).to_owned()).collect()
}

/// The text with each name replaced by what it is here; each has to be in it.
#[track_caller]
fn replaced(text: &str, names: &[(&str, &str)]) -> String {
    names.iter().fold(text.to_owned(), |text, (name, here)| {
        assert!(text.contains(name), "no {name} in {text}");
        text.replace(name, here)
    })
}

/// bygone takes these arguments: what it then says is of the source, which is not there.
fn assert_taken(arguments: &[&str]) {
    let scratch = Scratch::new("deploy");
    let bygone = Bygone::new("postgres://localhost:1/shop", scratch.join("history"))
        .env("BYGONE_SOURCE", "postgres://nobody@127.0.0.1:1/shop")
        .env("BYGONE_HISTORY", scratch.join("history").to_str().unwrap())
        .env("BYGONE_LISTEN", "127.0.0.1:0");
    let outcome = bygone.command(arguments);
    assert_eq!(outcome.code(), Some(1), "{arguments:?}: {}", outcome.stderr);
    assert!(outcome.stderr.contains("127.0.0.1"), "{arguments:?}: {}", outcome.stderr);
}

#[test]
fn the_service_starts_what_bygone_takes() {
    let unit = file("deploy/bygone.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let arguments: Vec<&str> = start.split(' ').skip(1).collect();
    assert_taken(&arguments);
}

#[test]
fn the_manifest_captures_a_source_with_its_own_arguments_variables_and_certificate() {
    let documents = yaml("deploy/kubernetes.yaml");
    let of = |kind: &str| documents.iter().find(|document| document["kind"] == kind).unwrap();
    let pod = &of("StatefulSet")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["envFrom"][0]["secretRef"]["name"], of("Secret")["metadata"]["name"]);
    let variables = of("Secret")["stringData"].as_object().unwrap();
    let source = text(&variables["BYGONE_SOURCE"]);

    // What the source's certificate is checked against is a file that the pod has.
    let certificate = source.split_once("sslrootcert=").expect("nothing to check a certificate against").1;
    let mut mounts = container["volumeMounts"].as_array().unwrap().iter();
    let (mount, name) = mounts
        .find_map(|mount| Some((mount, certificate.strip_prefix(text(&mount["mountPath"]))?)))
        .unwrap_or_else(|| panic!("{certificate} is in no volume"));
    let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == mount["name"]);
    assert_eq!(volume.unwrap()["configMap"]["name"], of("ConfigMap")["metadata"]["name"]);
    assert!(text(&of("ConfigMap")["data"][name.trim_start_matches('/')]).contains("BEGIN CERTIFICATE"));

    let server = Postgres::start();
    server.run("create table orders (id int primary key); insert into orders values (1)");
    let scratch = Scratch::new("deploy");
    let root = scratch.join("ca.crt");
    std::fs::write(&root, server.certify()).unwrap();
    let here = format!("postgres@localhost:{}/{DATABASE}?", server.port());
    let source =
        replaced(source, &[("bygone@db.shop.svc/shop?", &here), (certificate, root.to_str().unwrap())]);
    let moto = Moto::start();
    moto.put("archive", "", "");
    let bygone = variables
        .iter()
        .fold(Bygone::new("", ""), |made, (name, value)| made.env(name, text(value)))
        .env("AWS_ENDPOINT_URL", &moto.endpoint())
        .env("AWS_ALLOW_HTTP", "true")
        .env("BYGONE_SOURCE", &source);
    let state = scratch.join("state");
    let mut arguments = texts(&container["args"]);
    for argument in &mut arguments {
        *argument = match argument.as_str() {
            "/state" => state.to_str().unwrap().to_owned(),
            "0.0.0.0:9464" => "127.0.0.1:0".to_owned(),
            _ => continue,
        };
    }
    arguments.push("--until-current".to_owned());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    bygone.command(&arguments).well();
    assert!(!moto.store_of("archive", "shop/log").list().is_empty());
    // Without that file, nothing is: the source may be anybody.
    let source = replaced(&source, &[(root.to_str().unwrap(), "/nonexistent/ca.crt")]);
    bygone.env("BYGONE_SOURCE", &source).command(&arguments).refused(&["/nonexistent/ca.crt"]);
}

#[test]
fn what_compose_starts_captures_what_its_writer_does_and_duckdb_shows_it() {
    let documents = yaml("docker-compose.yml");
    let [compose] = documents.as_slice() else { panic!("one document") };
    let service = |name: &str| &compose["services"][name];
    let content = |name: &str| text(&compose["configs"][name]["content"]);
    let server = Postgres::start();
    server.run("create role app login superuser password 'app'");
    server.run(content("shop"));
    let moto = Moto::start();
    let scratch = Scratch::new("compose");

    let endpoint = moto.endpoint();
    let mut bygone = Bygone::new("", "");
    for (name, value) in service("bygone")["environment"].as_object().unwrap() {
        let value = text(value);
        bygone = bygone.env(name, &value.replace("http://bucket:9000", &endpoint));
    }
    assert_eq!(
        service("bucket")["environment"]["MINIO_ROOT_USER"],
        service("bygone")["environment"]["AWS_ACCESS_KEY_ID"]
    );
    let here = format!("127.0.0.1:{}/", server.port());
    let words = texts(&service("bygone")["command"]);
    let words: Vec<String> = words.iter().map(|word| word.replace("source/", &here)).collect();
    let kept = format!("s3://{BUCKET}/shop");
    assert!(words.contains(&kept), "{words:?}");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    bygone.start_bare(&words);
    let streams = eventually(Duration::from_secs(60), || bygone.said().contains("streaming"));
    assert!(streams, "{}", bygone.said());

    // The writer, with nothing of its own but where the server and its file are.
    let script = scratch.join("writer.sql");
    std::fs::write(&script, content("writer")).unwrap();
    let [shell, flag, command] = &texts(&service("writer")["entrypoint"])[..] else { panic!("sh -c …") };
    let psql = format!("{:?}", server.program("psql").words()[0]);
    let command = replaced(
        command,
        &[("psql", &psql), ("/writer.sql", script.to_str().unwrap()), ("sleep 2", "sleep 0.1")],
    );
    let mut writer = Program::new(shell).args([flag, &command]);
    for (name, value) in service("writer")["environment"].as_object().unwrap() {
        writer = writer.env(name, if name == "PGHOST" { "127.0.0.1" } else { text(value) });
    }
    let mut writer = writer.env("PGPORT", server.port().to_string()).start(&scratch.join("writer.log"));

    let ask = |bygone: &Bygone| bygone.command(&["history", "orders", "1", "--history", &kept]).stdout;
    let sent = eventually(Duration::from_secs(90), || {
        let told = ask(&bygone);
        told.contains("new -> paid") || told.contains("paid -> sent")
    });
    assert!(sent && writer.ended().is_none(), "{}\n{}", ask(&bygone), bygone.said());
    bygone.terminate(Signal::TERM, Duration::from_secs(30));
    drop(writer);

    let [flag, program] = &texts(&service("duckdb")["command"])[..] else { panic!("-c SQL") };
    assert_eq!(flag, "-c");
    let program = replaced(program, &[("bucket:9000", endpoint.trim_start_matches("http://"))]);
    let (secret, query) = program.split_once(";\n").unwrap();
    let rows = duckdb(secret, query);
    let told = Value::from(rows).to_string();
    for word in ["snapshot", "insert", "update", "web: ann", "shipping"] {
        assert!(told.contains(word), "no {word} in {told}");
    }
}

#[test]
fn the_commands_at_the_head_of_the_compose_file_are_of_its_services() {
    let text = file("docker-compose.yml");
    let documents = yaml("docker-compose.yml");
    let commands: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| Some(line.strip_prefix("#   docker compose ")?.split(' ').collect()))
        .collect();
    assert!(commands.len() >= 4 && commands[0][0] == "up", "{commands:?}");
    for words in &commands[1..] {
        let service = words[1..].iter().find(|word| !word.starts_with('-')).unwrap();
        assert!(documents[0]["services"][*service].is_object(), "no service {service}");
        if let ["exec", "bygone", "bygone", asked @ .., "--history", "s3://kept/shop"] = words.as_slice() {
            let scratch = Scratch::new("compose");
            Bygone::new("", scratch.join("none")).ask(asked).refused(&["no history"]);
        }
    }
}

#[test]
fn the_image_is_built_from_pinned_bases_and_runs_as_nobody() {
    let text = file("Dockerfile");
    let argument = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("ARG {name}="))).unwrap();
        assert!(value.contains(':') && !value.contains("latest"), "{value} moves");
        value
    };
    let cargo = file("Cargo.toml");
    let least =
        cargo.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(
        argument("RUST").starts_with(&format!("rust:{least}.")),
        "{} is not Rust {least}",
        argument("RUST")
    );
    assert!(argument("BASE").contains("distroless") && argument("BASE").ends_with(":nonroot"));
    let (build, last) = text.split_once("\nFROM ${BASE}\n").unwrap();
    assert!(
        build.contains("--locked") && !text.contains("apt-get"),
        "something is fetched that nothing pins"
    );
    let of = |instruction: &str| last.lines().find_map(|line| line.strip_prefix(instruction)).unwrap();
    let user = of("USER ").split(':').next().unwrap();
    let pod = &yaml("deploy/kubernetes.yaml")[2]["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsUser"].to_string(), user, "the manifest runs it as another user");
    let (_, to) = of("COPY --from=build ").split_once(' ').unwrap();
    assert_eq!(of("ENTRYPOINT "), format!("[{to:?}]"));
}
