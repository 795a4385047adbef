//! A policy file from text to meaning, in one pass that finds everything.

use std::path::Path as FilePath;

use super::{
    CrossCheck, DrillPolicy, Encryption, Limits, Objectives, Policy, PolicyErrors, PolicyProblem, Probe, Retention, SitePolicy,
    SourcePolicy, bandwidth, consistency,
    document::{Document, Findings, Path},
    meaning,
    source_meaning::source,
    structure,
    typed::{TypedCrossCheck, TypedDrill, TypedPolicy, TypedSite, TypedSource},
};

impl Policy {
    /// Reads a policy. `origin` is the file's name, or what else an error should call it.
    ///
    /// # Errors
    /// Every problem in the text, in the order of its lines.
    pub fn parse(text: &str, origin: impl AsRef<FilePath>) -> Result<Self, PolicyErrors> {
        read(text).map_err(|problems| PolicyErrors { origin: origin.as_ref().display().to_string(), problems })
    }
}

fn read(text: &str) -> Result<Policy, Vec<PolicyProblem>> {
    let (document, not_toml) = Document::parse(text);
    let mut findings = Findings::new(&document);
    let typed = serde_json::from_value::<TypedPolicy>(structure::usable(&document, &mut findings));
    let policy = match typed {
        Ok(typed) => meant(typed, text, &document, &mut findings),
        Err(error) => {
            // Cannot happen while schema and typed layer agree, which is tested; then it must not pass as a good policy.
            findings.add(&Path::root(), format!("cannot be read ({error}); this is a defect of farshore, please report it"));
            None
        }
    };
    let mut problems = findings.into_sorted();
    if !not_toml.is_empty() {
        // A broken line leaves gaps: what seems to be missing then may well be there.
        problems
            .retain(|problem| !problem.message.starts_with("missing") && not_toml.iter().all(|error| error.line != problem.line));
        problems.extend(not_toml);
        problems.sort_by_key(|problem| (problem.line, problem.column));
    }
    match policy {
        Some(policy) if problems.is_empty() => Ok(policy),
        _ => Err(problems),
    }
}

fn meant(typed: TypedPolicy, text: &str, document: &Document<'_>, findings: &mut Findings<'_>) -> Option<Policy> {
    let root = Path::root();
    let name = meaning::name(typed.name, &root.key("name"), findings);
    if typed.region.as_ref().is_some_and(|region| region.trim().is_empty()) {
        findings.add(&root.key("region"), "is empty; leave it out, or write where this is, such as \"eu-central-1\"");
    }
    consistency::unique_names("source", document, findings);
    consistency::unique_names("site", document, findings);
    let located = sources(typed.source, findings);
    let retention = match typed.retention {
        Some(typed) => meaning::retention(typed, Retention::default(), &root.key("retention"), findings),
        None => Retention::default(),
    };
    let encryption = typed.encryption.map(|typed| meaning::encryption(typed, &root.key("encryption"), findings));
    let sites = sites(typed.site, retention, encryption.as_ref(), findings);
    let stores: Vec<_> = sites.iter().map(|(path, site)| (path.clone(), site.store.clone())).collect();
    consistency::separate_places(&located, &stores, findings);
    consistency::locks(&sites, findings);
    let sources: Vec<SourcePolicy> = located.into_iter().map(|(_, source)| source).collect();
    let cross_checks = cross_checks(typed.cross_check, &sources, document, findings);
    let drill = drill(typed.drill, &sources, document, findings);
    let objectives =
        typed.objectives.map_or_else(Objectives::default, |typed| meaning::objectives(typed, &root.key("objectives"), findings));
    let limits = typed.limits.map_or_else(Limits::default, |typed| meaning::limits(typed, &root.key("limits"), findings));
    consistency::grace(&retention, &sites, &limits, findings);
    Some(Policy {
        name,
        region: typed.region,
        objectives,
        sources,
        sites: sites.into_iter().map(|(_, site)| site).collect(),
        // Last, after everything was looked at. Where it is missing there is no policy: never a default.
        encryption: encryption?,
        retention,
        limits,
        cross_checks,
        drill,
        text: text.to_owned(),
    })
}

fn sources(typed: Option<Vec<Option<TypedSource>>>, findings: &mut Findings<'_>) -> Vec<(Path, SourcePolicy)> {
    let mut sources = Vec::new();
    for (index, typed) in typed.into_iter().flatten().enumerate() {
        let path = Path::root().key("source").index(index);
        if let Some(source) = typed.and_then(|typed| source(typed, &path, findings)) {
            sources.push((path, source));
        }
    }
    sources
}

fn sites(
    typed: Option<Vec<Option<TypedSite>>>,
    retention: Retention,
    encryption: Option<&Encryption>,
    findings: &mut Findings<'_>,
) -> Vec<(Path, SitePolicy)> {
    let mut sites = Vec::new();
    for (index, typed) in typed.into_iter().flatten().enumerate() {
        let Some(typed) = typed else { continue };
        let path = Path::root().key("site").index(index);
        let name = meaning::name(typed.name, &path.key("name"), findings);
        let lock = typed.lock.and_then(meaning::lock);
        let retention = match typed.retention {
            Some(typed) => meaning::retention(typed, retention, &path.key("retention"), findings),
            None => retention,
        };
        let place = path.key("recipients");
        let recipients = typed.recipients.map(|typed| meaning::public_keys(Some(typed), &place, findings));
        // Where the policy's own is missing there is no policy, which was said; its sites are looked at all the same.
        let encryption = match encryption {
            Some(encryption) => meaning::site_encryption(recipients, encryption, &place, findings),
            None => Encryption::None,
        };
        let place = path.key("bandwidth");
        let bandwidth = typed.bandwidth.map_or_else(Vec::new, |typed| bandwidth::bandwidth(typed, &place, findings));
        if let Some(store) = meaning::store(typed.store, &path.key("store"), findings) {
            sites.push((path, SitePolicy { name, store, lock, retention, encryption, bandwidth }));
        }
    }
    sites
}

fn cross_checks(
    typed: Option<Vec<Option<TypedCrossCheck>>>,
    sources: &[SourcePolicy],
    document: &Document<'_>,
    findings: &mut Findings<'_>,
) -> Vec<CrossCheck> {
    let mut checks = Vec::new();
    for (index, typed) in typed.into_iter().flatten().enumerate() {
        let Some(typed) = typed else { continue };
        let path = Path::root().key("cross_check").index(index);
        consistency::reference(typed.source.as_deref(), "postgres", sources, document, &path.key("source"), findings);
        consistency::reference(typed.objects.as_deref(), "bucket", sources, document, &path.key("objects"), findings);
        if let (Some(source), Some(query), Some(objects)) = (typed.source, typed.query, typed.objects) {
            checks.push(CrossCheck { source, query, objects });
        }
    }
    checks
}

fn drill(typed: Option<TypedDrill>, sources: &[SourcePolicy], document: &Document<'_>, findings: &mut Findings<'_>) -> DrillPolicy {
    let Some(mut typed) = typed else { return DrillPolicy::default() };
    let path = Path::root().key("drill");
    let mut probes = Vec::new();
    for (index, typed) in typed.probe.take().into_iter().flatten().enumerate() {
        let Some(typed) = typed else { continue };
        let place = path.key("probe").index(index);
        consistency::reference(typed.source.as_deref(), "postgres", sources, document, &place.key("source"), findings);
        if let (Some(source), Some(query), Some(expect)) = (typed.source, typed.query, typed.expect) {
            probes.push(Probe { source, query, expect });
        }
    }
    DrillPolicy { probes, ..meaning::drill(typed, &path, findings) }
}
