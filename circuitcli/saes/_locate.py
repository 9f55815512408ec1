"""Where the dictionaries of a folder, a repository or a record are: every layout is asked for those that it knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from circuitcli import plugins
from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.runtime.foreign import shown
from circuitcli.saes._entry import SaeEntry
from circuitcli.saes._place import SCHEME, File, Located, Place, hub, split

if TYPE_CHECKING:
    from circuitcli.saes.layouts import Layout

LAYOUTS = "saes.layouts"

_DEPTHS, _MANY = (1, 2, 3), 20_000  # folders below a local one, and files at which no deeper ones are looked for
_SHOWN = 5


def again(entry: SaeEntry) -> Located:
    """Where the files of a recorded dictionary are, those on the hub at the commit that was recorded.

    Raises:
        HubError: They aren't in the cache any more, and the hub couldn't be asked.
    """
    addresses = [entry.source, *([entry.config] if entry.config else []), *entry.more]
    wanted: dict[tuple[str, str], list[str]] = {}
    for address in addresses:
        if address.startswith(SCHEME):
            repo, path, revision = split(address)
            wanted.setdefault((repo, revision or str(entry.revision)), []).append(path)
    found = {
        (repo, revision, path): file
        for (repo, revision), paths in wanted.items()
        for path, file in zip(paths, hub().files(repo, paths, revision), strict=True)
    }

    def file(address: str) -> File:
        if not address.startswith(SCHEME):
            return Path(address)
        repo, path, revision = split(address)
        return found[repo, revision or str(entry.revision), path]

    return Located(
        site=entry.at,
        weights=file(entry.source),
        config=file(entry.config) if entry.config else None,
        stated=entry.told,
        neuronpedia=entry.facts.neuronpedia,
        more=tuple(map(file, entry.more)),
        layout=entry.layout,
    )


def in_folder(root: Path) -> list[Located]:
    """The dictionaries in a folder on disk, at the sites that their files name, of the first depth that has any.

    Raises:
        InputError: There is none, or two read the same site.
    """
    for depth in _DEPTHS:
        place = Place(str(root), _below(root, depth))
        found = _all_in(place)
        if found or len(place.files) > _MANY:
            break
    return one_a_site(found or _none(place), str(root))


def in_repository(address: str, revision: str) -> list[Located]:
    """The dictionaries at an address on the hub; their configurations are fetched to see where they read.

    Raises:
        InputError: There is none, or two read the same site.
        HubError: The hub couldn't be asked.
    """
    repo, path, own = split(address)
    prefix = f"{path}/" if path else ""
    there = {file.path: file for file in hub().listing(repo, own or revision)}
    place = Place(address, {name[len(prefix) :]: file for name, file in there.items() if name.startswith(prefix)})
    return one_a_site(_all_in(place) or _none(place), address)


def _below(root: Path, depth: int) -> dict[str, File]:
    """The files in a folder and in those below it, so deep."""
    paths = [path for level in range(1, depth + 2) for path in root.glob("/".join("*" * level))]
    return {path.relative_to(root).as_posix(): path for path in sorted(paths) if not path.is_dir()}


def _all_in(place: Place) -> list[Located]:
    layouts: list[Layout] = [plugins.load(LAYOUTS, name) for name in plugins.names(LAYOUTS)]
    return [one for layout in layouts for one in layout.find(place)]


def _none(place: Place) -> NoReturn:
    looked = "; ".join(plugins.load(LAYOUTS, name).files for name in plugins.names(LAYOUTS))
    names = sorted(place.files, key=lambda name: (name.count("/"), name))
    has = ", ".join(map(shown, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
    raise InputError(
        f"There is no SAE or transcoder in {place.name}: {f'it has {has}' if has else 'it has no files'}.",
        hint=f"Looked for: {looked}.",
    )


def one_a_site(found: Sequence[Located], release: str) -> list[Located]:
    """Refuse two dictionaries at one site."""
    seen: dict[Site, Located] = {}
    for located in found:
        if located.site in seen:
            raise InputError(
                f"Two dictionaries in {release} read {located.site}: {seen[located.site].source} and {located.source}.",
                hint="Give a release, folder or path with one a site.",
            )
        seen[located.site] = located
    return list(found)


def at(found: Iterable[Located], sites: Sequence[Site]) -> list[Located]:
    """Those at the sites, in that order."""
    by_site = {located.site: located for located in found}
    return [by_site[site] for site in sites]


def unversioned(release: str, revision: str) -> None:
    """Refuse a revision of what has none."""
    if revision != "main":
        raise InputError(f"The SAEs of {release} have no revisions.", hint="Leave --revision out.")
