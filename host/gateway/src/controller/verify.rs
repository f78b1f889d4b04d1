//! What an artefact has to show before it may serve, off the path of requests: that it compiles,
//! links and instantiates, and that it keeps what its own golden cases promise.

use std::{thread, time::Duration};

use gapura_plugin_runtime::{Plugin, PluginRuntime};

use super::{
    ControlError,
    release::{Check, Facts},
};
use crate::{
    builtin,
    cases::{self, Case, CaseRunner},
};

/// For all cases together.
const CASES_TIME: Duration = Duration::from_secs(60);

/// Refuses names that cannot be those of plugins.
pub(super) fn check_name(name: &str) -> Result<(), ControlError> {
    if name == builtin::TEMPLATE {
        let name = name.to_owned();
        return Err(ControlError::ReservedName { name });
    }
    PluginRuntime::check_name(name).map_err(|source| ControlError::refused(name, source))
}

/// Compiles, links and probes `component`.
pub(super) fn load(
    runtime: &PluginRuntime,
    name: &str,
    component: &[u8],
) -> Result<Plugin, ControlError> {
    check_name(name)?;
    runtime
        .load(name, component)
        .map_err(|source| ControlError::refused(name, source))
}

/// [`load`], and the cases that the component carries.
pub(super) fn examine(
    runtime: &PluginRuntime,
    name: &str,
    component: &[u8],
) -> Result<(Plugin, Facts), ControlError> {
    let plugin = load(runtime, name, component)?;
    let cases = cases::embedded(component).map_err(|source| ControlError::Cases {
        name: name.to_owned(),
        reason: source.to_string(),
    })?;
    run_cases(runtime, &plugin, &cases)?;
    let facts = facts(&plugin, cases.len());
    Ok((plugin, facts))
}

/// What `plugin`, which carries so many cases, says of itself.
pub(super) fn facts(plugin: &Plugin, cases: usize) -> Facts {
    Facts {
        version: plugin.version().to_owned(),
        stages: plugin
            .stages()
            .iter()
            .map(|stage| stage.as_str().to_owned())
            .collect(),
        imports: plugin
            .imports()
            .iter()
            .map(|import| import.as_str().to_owned())
            .collect(),
        cases,
    }
}

/// The refusal as the version remembers it.
pub(super) fn failed(error: &ControlError) -> Check {
    Check::Failed {
        code: error.code().to_owned(),
        reason: error.to_string(),
    }
}

fn run_cases(runtime: &PluginRuntime, plugin: &Plugin, cases: &[Case]) -> Result<(), ControlError> {
    if cases.is_empty() {
        return Ok(());
    }
    let broken = |reason: String| ControlError::Cases {
        name: plugin.name().to_owned(),
        reason,
    };
    let runner = CaseRunner::on(runtime);
    // A thread of their own: whoever asks may be part of an async runtime already.
    let ran = thread::scope(|scope| {
        let work = scope.spawn(|| {
            let executor = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .map_err(|error| broken(format!("cannot be run: {error}")))?;
            let all = async {
                for case in cases {
                    run_case(&runner, plugin, case).await.map_err(broken)?;
                }
                Ok(())
            };
            executor
                .block_on(async { tokio::time::timeout(CASES_TIME, all).await })
                .unwrap_or_else(|_| Err(broken(format!("take more than {CASES_TIME:?}"))))
        });
        work.join()
    });
    ran.unwrap_or_else(|_| Err(broken("could not be run; the log says why".to_owned())))
}

/// The error says which case, and how it differs.
async fn run_case(runner: &CaseRunner, plugin: &Plugin, case: &Case) -> Result<(), String> {
    let name = &case.name;
    let outcome = runner
        .run(plugin, case)
        .await
        .map_err(|error| format!("`{name}` cannot be run: {error}"))?;
    // Where nobody has written down what is to come of it, that it runs is all it can show.
    let Some(expect) = &case.expect else {
        return match outcome.failure {
            Some(failure) => Err(format!("`{name}` failed: {failure}")),
            None => Ok(()),
        };
    };
    let differences = outcome.found.differences(expect);
    let Some(first) = differences.first() else {
        return Ok(());
    };
    let shown = |text: &Option<String>| match text {
        None => "nothing".to_owned(),
        Some(text) => format!("{:?}", text.chars().take(200).collect::<String>()),
    };
    let (key, wanted, found) = (&first.key, shown(&first.wanted), shown(&first.found));
    let because = match outcome.failure {
        Some(failure) => format!(" ({failure})"),
        None => String::new(),
    };
    Err(format!(
        "`{name}` does not hold: {key} is {found}, the case expects {wanted}{because}"
    ))
}
