"""Choice of a replica: the contract of a policy, and the policies that come with Pointsman.

A policy from outside derives from `PlainPolicy` or `ComposedPolicy` and imports what it needs from here:
`docs/writing-a-policy.md` walks through one. Policies are pure: `rank` reads its arguments and the policy's own
declared memory, and awaits nothing. `registry` knows the policies by name; `builtin` has those that come along, `lib`
what several of them share.
"""

from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Decision, Ranked, Reason, Refusal
from pointsman.policies.errors import PolicyConfigError, PolicyError
from pointsman.policies.policy import ComposedPolicy, Context, Needs, PlainPolicy, Policy, PolicyConfig, PolicyDocument
from pointsman.policies.request import RequestFeatures

__all__ = [
    "Candidates",
    "ComposedPolicy",
    "Context",
    "Decision",
    "Needs",
    "PlainPolicy",
    "Policy",
    "PolicyConfig",
    "PolicyConfigError",
    "PolicyDocument",
    "PolicyError",
    "Ranked",
    "Reason",
    "Refusal",
    "RequestFeatures",
]
