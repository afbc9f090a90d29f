"""The rows of the admin API that are about policies; part of `pointsman.router.fronts.api.table`."""

from __future__ import annotations

from pointsman.contract.tokens import TokenRole
from pointsman.router.fronts.api.endpoint import Answer, Endpoint, Parameter, Schema
from pointsman.router.fronts.api.etag import IF_MATCH
from pointsman.router.fronts.api.paging import PAGE
from pointsman.router.fronts.api.policy import PolicyFront
from pointsman.router.fronts.api.policy_revisions import FROM, REVISION, TO, RevisionsFront
from pointsman.router.fronts.api.policy_trials import TrialsFront
from pointsman.router.fronts.api.policy_types import (
    PolicyDetail,
    PolicyDiff,
    ReloadAnswer,
    RevisionList,
    RevisionView,
    Rollback,
    ValidPolicy,
)
from pointsman.router.fronts.api.trial_types import (
    DryRunAnswer,
    DryRunRequest,
    RolloutRequest,
    RolloutView,
    ShadowRequest,
    ShadowState,
)
from pointsman.router.fronts.api.types import PolicyList

POLICY = "Policy"
"""Name of the policy document among the described types."""

POLICY_SCHEMA: Schema = {
    "title": POLICY,
    "type": "object",
    "required": ["policy"],
    "properties": {
        "policy": {"type": "string", "description": "Name of a policy, see GET /v1/policies."},
        "fallback": {"type": "object", "description": "Another policy document, for what this one leaves open."},
        "models": {
            "type": "object",
            "additionalProperties": {"type": "object"},
            "description": "Policy documents by model, as requests name it; other models have the policy above.",
        },
    },
    "additionalProperties": True,
}

POLICY_NAME = Parameter(name="name", where="path", schema={"type": "string", "minLength": 1, "maxLength": 128})
DRY_RUN = Parameter(
    name="dry_run",
    where="query",
    schema={"type": "boolean"},
    description="Validate and answer, change nothing.",
)
WHY = Parameter(
    name="why",
    where="query",
    schema={"type": "string", "maxLength": 500},
    description="Reason of the change, kept with its revision.",
)

VERSION = {
    "ETag": "Version of the live document, for `If-Match`.",
    "X-Pointsman-Revision": "Revision that is live, as this edge counts them.",
}

STALE = {412: "If-Match names another version, or another edge was faster; the header `ETag` has the live version."}
NO_SHADOW = {404: "There is no shadow."}
NO_REVISION = {404: "No such revision is kept."}

APPLIED = Answer(
    "The document as applied. `warnings`, where there are any, say what keeps the policy from working as it should.",
    POLICY_SCHEMA,
    headers=VERSION,
)

POLICY_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET", "/v1/policies", PolicyFront.list_policies, "List the installed policies",
        answers={200: Answer("Policies.", PolicyList)},
    ),
    Endpoint(
        "POST", "/v1/policies/reload", PolicyFront.reload_policies, "Look for policies of packages that came since",
        answers={200: Answer("Policies of packages.", ReloadAnswer)},
    ),
    Endpoint(
        "GET", "/v1/policies/{name}", PolicyFront.get_installed_policy, "Get one installed policy with its JSON Schema",
        parameters=(POLICY_NAME,), answers={200: Answer("The policy.", PolicyDetail)},
        errors={404: "No such policy is installed."},
    ),
    Endpoint(
        "POST", "/v1/policy/validate", PolicyFront.validate_policy, "Check a policy document",
        body=POLICY_SCHEMA, allowed=(TokenRole.READ,), answers={200: Answer("The document fits.", ValidPolicy)},
    ),
    Endpoint(
        "GET", "/v1/policy", PolicyFront.get_policy, "Get the live policy",
        answers={200: Answer("The document.", POLICY_SCHEMA, headers=VERSION)},
    ),
    Endpoint(
        "PUT", "/v1/policy", PolicyFront.put_policy, "Change the live policy",
        parameters=(IF_MATCH, DRY_RUN, WHY), body=POLICY_SCHEMA, answers={200: APPLIED}, errors=STALE,
    ),
    Endpoint(
        "GET", "/v1/policy/revisions", RevisionsFront.list_policy_revisions, "List what was live, by whom and why",
        parameters=PAGE, answers={200: Answer("Revisions, the newest first.", RevisionList)},
    ),
    Endpoint(
        "GET", "/v1/policy/revisions/{revision}", RevisionsFront.get_policy_revision, "Get one revision",
        parameters=(REVISION,), answers={200: Answer("The revision.", RevisionView)}, errors=NO_REVISION,
    ),
    Endpoint(
        "GET", "/v1/policy/diff", RevisionsFront.diff_policy, "Compare two revisions",
        parameters=(FROM, TO), answers={200: Answer("What differs.", PolicyDiff)}, errors=NO_REVISION,
    ),
    Endpoint(
        "POST", "/v1/policy/rollback", RevisionsFront.rollback_policy, "Put an earlier revision live again",
        parameters=(IF_MATCH,), body=Rollback, answers={200: APPLIED}, errors={**STALE, **NO_REVISION},
    ),
    Endpoint(
        "POST", "/v1/policy/dry-run", TrialsFront.dry_run_policy, "Try a document on past decisions",
        body=DryRunRequest, allowed=(TokenRole.READ,),
        answers={200: Answer("What the document would have decided.", DryRunAnswer)},
        errors={404: "This router keeps no decisions."},
    ),
    Endpoint(
        "GET", "/v1/policy/shadow", TrialsFront.get_shadow, "Get the policy that decides beside the live one",
        answers={200: Answer("Its state, and how the two compare.", ShadowState)}, errors=NO_SHADOW,
    ),
    Endpoint(
        "PUT", "/v1/policy/shadow", TrialsFront.put_shadow, "Have a policy decide beside the live one, to no effect",
        body=ShadowRequest, answers={200: Answer("The shadow.", ShadowState)},
    ),
    Endpoint(
        "DELETE", "/v1/policy/shadow", TrialsFront.delete_shadow, "Take the shadow away",
        answers={204: Answer("Taken away.")}, errors=NO_SHADOW,
    ),
    Endpoint(
        "GET", "/v1/policy/rollout", TrialsFront.get_rollout, "Get the latest rollout and how its policy compares",
        answers={200: Answer("The rollout.", RolloutView)},
        errors={404: "No policy was rolled out since the router started."},
    ),
    Endpoint(
        "POST", "/v1/policy/rollout", TrialsFront.start_rollout, "Roll a policy out to a share of new sessions",
        parameters=(IF_MATCH,), body=RolloutRequest, answers={201: Answer("The rollout.", RolloutView)},
        errors={**STALE, 409: "A rollout is running, or the document is live already."},
    ),
    Endpoint(
        "DELETE", "/v1/policy/rollout", TrialsFront.stop_rollout, "End the rollout",
        answers={204: Answer("Ended.")}, errors={404: "No rollout is running."},
    ),
)  # fmt: skip
