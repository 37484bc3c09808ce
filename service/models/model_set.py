"""Which models are served, by name and version, and which of them answers a request."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

from service.errors import BrokenModelError, ModelRequiredError, UnknownModelError
from service.models.eviction import EvictedModel
from service.models.files import BrokenModel
from service.models.model import ServedModel
from service.versions import VersionPolicy

Known = ServedModel | BrokenModel | EvictedModel

_LATEST = VersionPolicy()


@dataclass(frozen=True)
class ModelSet:
    """An immutable set of the loaded models, of broken files, and of evicted models.

    `default` is the name for requests that name none. If `strict`, none may be broken. `policies`,
    by name, come before what the models' settings say of their versions.
    """

    loaded: Sequence[ServedModel]
    broken_files: Sequence[BrokenModel] = ()
    evicted: Sequence[EvictedModel] = ()
    default: str | None = None
    strict: bool = False
    policies: Mapping[str, VersionPolicy] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def _by_name(self) -> Mapping[str, Mapping[int, Known]]:
        found: dict[str, dict[int, Known]] = {}
        known: list[Known] = [*self.broken_files, *self.evicted, *self.loaded]
        for model in known:
            found.setdefault(model.name, {})[model.version] = model
        return found

    def having(self, model: ServedModel) -> ModelSet:
        """Return a set with `model` added, replacing any with the same name and version."""
        left = self.without(model.name, model.version)
        return replace(left, loaded=(*left.loaded, model))

    def without(self, name: str, version: int) -> ModelSet:
        """Return a set without the model with that name and version."""

        def stays(model: Known) -> bool:
            return (model.name, model.version) != (name, version)

        return replace(
            self,
            loaded=tuple(filter(stays, self.loaded)),
            broken_files=tuple(filter(stays, self.broken_files)),
            evicted=tuple(filter(stays, self.evicted)),
        )

    def evicting(self, model: EvictedModel) -> ModelSet:
        """Return a set in which a model is evicted."""
        left = self.without(model.name, model.version)
        return replace(left, evicted=(*left.evicted, model))

    def get(self, name: str, version: int) -> Known | None:
        """Return the model with that name and version, if there is one."""
        return self._by_name.get(name, {}).get(version)

    def known_versions(self, name: str) -> list[int]:
        """List the versions of a model, broken ones too, in order."""
        return sorted(self._by_name.get(name, ()))

    def share(self, model: ServedModel) -> float:
        """Return the share of the requests that name no version which a model answers, 0 to 1."""
        return self._shares(model.name).get(model.version, 0.0)

    def _shares(self, name: str) -> Mapping[int, float]:
        return self.policy(name).of(self._answering(name))

    def _answering(self, name: str) -> Collection[int]:
        """Return the versions to choose from: a broken one's share goes to the others.

        The latest and an only version are wanted as such, and nothing replaces them.
        """
        known, policy = self._by_name[name], self.policy(name)
        if len(policy.shares) <= 1:
            return known
        working = [version for version, model in known.items() if not _is_broken(model)]
        return working if policy.of(working) else known

    def policy(self, name: str) -> VersionPolicy:
        """Return which versions of a model answer requests that name none.

        Of several loaded versions, the newest was loaded with the newest settings. These also hold
        once every version of the policy that comes before them is gone.
        """
        before = self.policies.get(name)
        if before is not None and before.of(self._by_name.get(name, {})):
            return before
        return self._own_policies.get(name, _LATEST)

    def would_answer(self, name: str, version: int) -> bool:
        """Return whether a version alone answers as the model's settings say."""
        policy = self._own_policies.get(name, _LATEST)
        return policy.of(self._by_name[name]).keys() == {version}

    @cached_property
    def _own_policies(self) -> Mapping[str, VersionPolicy]:
        found = [(m.version, m.name, m.policy) for m in self.evicted]
        found += [(m.version, m.name, m.options.policy) for m in self.loaded]
        found.sort(key=lambda each: each[0])  # so that the newest come last, and count
        return {name: policy or _LATEST for _, name, policy in found}

    def find(
        self, name: str | None, version: int | None = None, request_id: str | None = None
    ) -> ServedModel | EvictedModel:
        """Return the model that answers, evicted or not; see `Repository.find`."""
        asked, name = name, name or self.default
        if name is None:
            raise ModelRequiredError(f"choose a model with ?model=; available: {self._served()}")
        versions = self._by_name.get(name)
        if versions is None:
            which = "of that name" if asked else f"{name}, which answers if none is named"
            raise UnknownModelError(f"there is no model {which}; available: {self._served()}")
        if version is None:
            policy = self.policy(name)
            version = policy.choose(self._answering(name), name, request_id)
            if version is None:
                raise UnknownModelError(
                    f"model {name} is answered by version {policy}, which is "
                    f"not there; available: {_listed(versions)}"
                )
        found = versions.get(version)
        if found is None:
            raise UnknownModelError(
                f"model {name} has no version {version}; available: {_listed(versions)}"
            )
        if isinstance(found, EvictedModel):
            return found
        if isinstance(found, BrokenModel) or found.broken:
            raise BrokenModelError(f"model {name} version {version} is broken: {found.reason}")
        return found

    def _served(self) -> str:
        names = sorted({name for name, found in self._by_name.items() if not _all_broken(found)})
        return ", ".join(names) or "none"

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model that are loaded, lowest first."""
        return sorted(model.version for model in self.loaded if model.name == name)

    def title(self, model: ServedModel) -> str:
        """Return a model's name, with its version if there are others with that name."""
        several = len(self._by_name.get(model.name, ())) > 1
        return f"{model.name}/{model.version}" if several else model.name

    def broken(self) -> list[BrokenModel]:
        """List the models whose files can't be loaded, or that failed their warm-up.

        Of the latter, those that could not be run at all are retried and may recover.
        """
        found = [BrokenModel(m.name, m.version, m.reason) for m in self.loaded if m.broken]
        return sorted([*self.broken_files, *found], key=lambda model: (model.name, model.version))

    def needed(self) -> list[ServedModel]:
        """List the models that must be ready for the service to be ready.

        A broken model is not needed if another one works, unless it is the default or `strict` is
        set.
        """
        if self.strict or all(model.broken for model in self.loaded):
            return list(self.loaded)
        return [model for model in self.loaded if not model.broken or self._is_default(model)]

    def _is_default(self, model: ServedModel) -> bool:
        return model.name == self.default and model.version in self._shares(model.name)


def _all_broken(versions: Mapping[int, Known]) -> bool:
    return all(isinstance(model, BrokenModel) for model in versions.values())


def _is_broken(model: Known) -> bool:
    return isinstance(model, BrokenModel) or (isinstance(model, ServedModel) and model.broken)


def _listed(versions: Iterable[int]) -> str:
    return ", ".join(str(version) for version in sorted(versions))
