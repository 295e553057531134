//! What a daemon shows of its VMs and images, as far as a power cut must leave it so.

use crate::owner::Owner;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// By id or digest, what is so of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct World(BTreeMap<String, String>);

/// Parts of a VM that are no promise: what its disk takes, what its process is.
const PASSING: [&str; 5] = ["disk_used", "pid", "boot_ms", "engine", "exit"];

/// The owner's key for ssh, below the home.
pub(crate) const KEY: &str = "state/ssh/id_ed25519.pub";

impl World {
    pub(crate) fn to_json(&self) -> Value {
        serde_json::to_value(&self.0).unwrap()
    }

    pub(crate) fn from_json(value: &Value) -> Self {
        Self(serde_json::from_value(value.clone()).unwrap())
    }

    /// What the daemon that runs says, or why it says nothing.
    pub(crate) fn seen(owner: &Owner) -> Result<Self, String> {
        let mut world = BTreeMap::new();
        for mut vm in list(owner, "/v1/vms")? {
            let fields = vm.as_object_mut().unwrap();
            for name in PASSING {
                fields.remove(name);
            }
            // No VM runs on when the power is cut.
            if fields["state"] == "running" {
                fields["state"] = "crashed".into();
            }
            world.insert(vm["id"].as_str().unwrap().to_owned(), vm.to_string());
        }
        for image in list(owner, "/v1/images")? {
            let shown = format!("{} {}", image["tags"], image["size"]);
            world.insert(image["digest"].as_str().unwrap().to_owned(), shown);
        }
        // What guests let their owner in by.
        if let Ok(key) = fs::read_to_string(owner.home().join(KEY))
            && key.ends_with('\n')
        {
            world.insert(KEY.to_owned(), key);
        }
        Ok(Self(world))
    }

    /// Whether it is one of these. An image without a tag is none that was acknowledged: its content
    /// comes before its name, and goes after it.
    pub(crate) fn is_either(&self, before: &Self, after: &Self) -> bool {
        let named = |world: &Self| {
            let mut things = world.0.clone();
            things.retain(|_, shown| !shown.starts_with("[]"));
            things
        };
        let named_here = named(self);
        named_here == named(before) || named_here == named(after)
    }

    /// How it differs from another, a line for each thing.
    pub(crate) fn difference(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for key in self
            .0
            .keys()
            .chain(other.0.keys().filter(|key| !self.0.contains_key(*key)))
        {
            let [one, two] = [self, other].map(|world| world.0.get(key).map_or("", String::as_str));
            // What the two begin and end with says nothing.
            let is_same = |(a, b): &(char, char)| a == b;
            let begin = one.chars().zip(two.chars()).take_while(is_same).count();
            if one != two {
                let rest = |text: &str| {
                    text.chars()
                        .skip(begin.saturating_sub(20))
                        .take(160)
                        .collect::<String>()
                };
                lines.push(format!("{key}: {:?}, not {:?}", rest(one), rest(two)));
            }
        }
        lines
    }

    /// Files and directories that belong to nothing that is listed.
    pub(crate) fn litter(&self, home: &Path) -> Vec<String> {
        let mut litter = Vec::new();
        for root in ["state/vms", "data/images"] {
            for name in names(&home.join(root)) {
                let key = match root {
                    "data/images" => format!("sha256:{name}"),
                    _ => name.clone(),
                };
                if !self.0.contains_key(&key) {
                    litter.push(format!("{root}/{name}"));
                }
            }
        }
        let mut rest = vec![home.to_owned()];
        while let Some(dir) = rest.pop() {
            for name in names(&dir) {
                let path = dir.join(&name);
                if path.is_dir() && !path.is_symlink() {
                    rest.push(path.clone());
                }
                let is_temporary = name.ends_with(".new")
                    || name.starts_with("scratch-")
                    || name.contains(".damaged-");
                if is_temporary {
                    litter.push(path.strip_prefix(home).unwrap().display().to_string());
                }
            }
        }
        litter
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new(); // not made yet
    };
    let names = entries.map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

fn list(owner: &Owner, path: &str) -> Result<Vec<Value>, String> {
    let shown = owner.ask("GET", path, "")?;
    Ok(shown.as_array().unwrap().clone())
}
