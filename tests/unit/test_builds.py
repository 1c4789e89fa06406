"""What may be built side by side: claims are read off statements, and a plan never lets two collide."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.postgres.builds import Build, Kind, Plan, Reader
from asyncbackup.postgres.sections import Statement, Table

T = ("public", "t")
U = ("other s", "u")


def statement(text: str) -> Statement:
    return Statement(text=text.encode(), entry="", settings={})


def read(text: str, reader: Reader | None = None) -> Build | None:
    return (reader or Reader()).read(statement(text), "UTF8")


@pytest.mark.parametrize(
    ("text", "kind", "what"),
    [
        ("CREATE INDEX i ON public.t USING btree (a);", Kind.INDEX, "family"),
        ('CREATE UNIQUE INDEX "I ""x" ON public.t USING btree (lower(a)) WHERE (b > 0);', Kind.INDEX, "unique family"),
        ("CREATE INDEX i ON ONLY public.t USING gin (a);", Kind.INDEX, ""),
        ("ALTER TABLE ONLY public.t\n    ADD CONSTRAINT p PRIMARY KEY (a);", Kind.INDEX, "unique exclusive"),
        ("ALTER TABLE ONLY public.t\n    ADD CONSTRAINT p UNIQUE NULLS NOT DISTINCT (a);", Kind.INDEX, "unique exclusive"),
        ("ALTER TABLE ONLY public.t\n    ADD CONSTRAINT p EXCLUDE USING gist (r WITH &&);", Kind.INDEX, "unique exclusive"),
        ("ALTER TABLE public.t\n    ADD CONSTRAINT n NOT NULL a NOT VALID;", Kind.OTHER, "exclusive family"),
        ("ALTER TABLE public.t CLUSTER ON t_pkey;", Kind.OTHER, "exclusive family"),
        ("ALTER TABLE ONLY public.t REPLICA IDENTITY FULL;", Kind.OTHER, "exclusive"),
        ("ALTER TABLE public.t ENABLE ROW LEVEL SECURITY;", Kind.OTHER, "exclusive family"),
        ("ALTER TABLE public.t DISABLE TRIGGER x;", Kind.OTHER, "exclusive family"),
        (
            'CREATE TRIGGER "a ON x.y" AFTER INSERT OR UPDATE OF a, "b ON z.z" ON public.t EXECUTE FUNCTION public.f(\' FROM \');',
            Kind.OTHER, "exclusive family",
        ),
        ("CREATE CONSTRAINT TRIGGER c AFTER DELETE ON public.t NOT DEFERRABLE INITIALLY IMMEDIATE EXECUTE FUNCTION f();", Kind.OTHER, "exclusive family"),
        ("CREATE STATISTICS public.s ON EXTRACT(year FROM x.y), (a || ' FROM z.z;') FROM public.t;", Kind.OTHER, "exclusive"),
        ("COMMENT ON CONSTRAINT c ON public.t IS 'x ON z.z IS';", Kind.OTHER, "exclusive"),
        ("COMMENT ON TRIGGER c ON public.t IS NULL;", Kind.OTHER, "exclusive"),
    ],
)  # fmt: skip
def test_a_statement_tells_which_table_it_claims(text: str, kind: Kind, what: str) -> None:
    build = read(text)
    assert build is not None
    assert (build.table, build.also) == (T, frozenset())
    assert build.kind is kind
    flags = {"unique": build.unique, "exclusive": build.exclusive, "family": build.family}
    assert {name for name, flag in flags.items() if flag} == set(what.split())
    assert build.statement.text == text.encode()


def test_only_what_sorts_can_do_with_less_memory() -> None:
    sorting = [
        "CREATE INDEX i ON public.t USING btree (a);",
        "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT p PRIMARY KEY (a);",
        "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.u(a);",
    ]
    others = [
        "CREATE INDEX i ON public.t USING gin (a);",
        "CREATE INDEX i ON public.t USING hnsw (a);",
        "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT p EXCLUDE USING gist (r WITH &&);",
        "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT p PRIMARY KEY (a, r WITHOUT OVERLAPS);",
    ]
    built = [read(text) for text in (*sorting, *others)]
    assert [build.sorts for build in built if build] == [True] * 3 + [False] * 4


@pytest.mark.parametrize("only", ["ONLY ", ""])
@pytest.mark.parametrize("columns", ["a", 'a, "b, c"', "a, PERIOD b"])
@pytest.mark.parametrize("rest", ["(id);", "(id) ON DELETE CASCADE NOT VALID;", ";"])
def test_a_foreign_key_claims_two_tables_with_their_partitions(only: str, columns: str, rest: str) -> None:
    build = read(
        f'ALTER TABLE {only}public.t\n    ADD CONSTRAINT f FOREIGN KEY ({columns}) REFERENCES "other s".u{rest}'
    )
    assert build is not None
    assert (build.kind, build.table, build.also) == (Kind.FOREIGN_KEY, T, frozenset({U}))
    assert build.exclusive
    assert build.family


@pytest.mark.parametrize(
    "text",
    [
        "CREATE VIEW public.v AS SELECT 1;",
        "CREATE RULE r AS ON INSERT TO public.t DO NOTHING;",
        "CREATE POLICY p ON public.t USING (true);",
        "CREATE TRIGGER x INSTEAD ON public.t;",
        "CREATE CONSTRAINT TRIGGER c AFTER DELETE ON public.t FROM public.u NOT DEFERRABLE FOR EACH ROW EXECUTE FUNCTION f();",
        "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f();",
        "ALTER TABLE public.t\n    ADD CONSTRAINT c CHECK (public.f(a)) NOT VALID;",
        "ALTER TABLE public.t OWNER TO me;",
        "ALTER TABLE ONLY public.t ATTACH PARTITION public.u FOR VALUES IN (1);",
        "ALTER TABLE ONLY public.t ALTER COLUMN a SET DEFAULT nextval('public.s'::regclass);",
        "ALTER INDEX public.i ATTACH PARTITION public.j;",
        "COMMENT ON INDEX public.i IS 'x';",
        "COMMENT ON TABLE public.t IS 'x';",
        "REFRESH MATERIALIZED VIEW public.m;",
        "GRANT ALL ON TABLE public.t TO PUBLIC;",
        "SELECT pg_catalog.setval('public.s', 1, true);",
    ],
)
def test_whatever_is_not_known_runs_alone(text: str) -> None:
    assert read(text) is None


def test_statements_on_indexes_find_their_tables() -> None:
    reader = Reader()
    read("CREATE INDEX parent ON ONLY public.t USING btree (a);", reader)
    read('ALTER TABLE ONLY "other s".u\n    ADD CONSTRAINT part PRIMARY KEY (a);', reader)
    attach = read('ALTER INDEX public.parent ATTACH PARTITION "other s".part;', reader)
    comment = read("COMMENT ON INDEX public.parent IS 'of a parent';", reader)
    tuned = read('ALTER INDEX "other s".part ALTER COLUMN 1 SET STATISTICS 100;', reader)
    assert attach is not None
    assert comment is not None
    assert tuned is not None
    assert (attach.kind, {attach.table, *attach.also}) == (Kind.OTHER, {T, U})
    assert (comment.kind, comment.table) == (Kind.OTHER, T)
    assert (tuned.kind, tuned.table) == (Kind.OTHER, U)
    assert read("ALTER INDEX public.parent ATTACH PARTITION public.unheard_of;", reader) is None


# ------------------------------------------------------------------------------------------------
# Plans


def index(table: Table, *, unique: bool = False, exclusive: bool = False, cost: float = 1) -> Build:
    return Build(
        statement=statement("x"), kind=Kind.INDEX, table=table, unique=unique, exclusive=exclusive, cost=cost
    )


def foreign_key(table: Table, other: Table) -> Build:
    return Build(
        statement=statement("x"),
        kind=Kind.FOREIGN_KEY,
        table=table,
        also=frozenset({other}),
        family=True,
        cost=0.5,
    )


def other(table: Table) -> Build:
    return Build(statement=statement("x"), kind=Kind.OTHER, table=table)


def taken(plan: Plan) -> list[int]:
    """Take all that can run at once."""
    found = []
    while one := plan.take():
        found.append(one[0])
    return found


def test_indexes_of_a_table_run_together_and_a_key_has_it_alone() -> None:
    builds = [index(T), index(T), index(T, exclusive=True, cost=0.5), index(U)]
    plan = Plan(builds, {}, {T: 100, U: 1000})
    assert taken(plan) == [3, 0, 1]
    plan.done(0)
    assert taken(plan) == []
    plan.done(1)
    assert taken(plan) == [2]


def test_a_foreign_key_waits_for_the_key_that_it_needs_and_for_nothing_else() -> None:
    builds = [index(U), index(U, unique=True, exclusive=True), index(T), foreign_key(T, U)]
    plan = Plan(builds, {}, {T: 1, U: 1})
    order = []
    while not plan.over:
        one = plan.take()
        assert one is not None
        order.append(one[0])
        plan.done(one[0])
    assert order.index(1) < order.index(3)
    # The key comes first, because something waits for it.
    assert order[0] == 1


def test_a_foreign_key_has_both_tables_alone_with_their_partitions() -> None:
    part = ("public", "part")
    plan = Plan([foreign_key(T, U), index(part), index(("public", "elsewhere"))], {U: {part}}, {T: 1000})
    assert taken(plan) == [0, 2]
    plan.done(2)
    assert taken(plan) == []
    plan.done(0)
    assert taken(plan) == [1]


def test_other_statements_keep_their_place() -> None:
    plan = Plan([index(T), other(T), index(T), other(U)], {}, {})
    assert sorted(taken(plan)) == [0, 3]
    plan.done(3)
    plan.done(0)
    assert taken(plan) == [1]
    plan.done(1)
    assert taken(plan) == [2]


def test_the_last_one_knows_that_it_is_alone() -> None:
    plan = Plan([index(T), index(U)], {}, {T: 2, U: 1})
    first = plan.take()
    assert first is not None
    assert not plan.alone
    plan.done(first[0])
    assert plan.take() is not None
    assert plan.alone


tables = st.sampled_from([("s", name) for name in "abcde"])
builds = st.lists(
    st.one_of(
        st.builds(index, tables, unique=st.booleans(), exclusive=st.booleans(), cost=st.floats(0, 4)),
        st.builds(foreign_key, tables, tables),
        st.builds(other, tables),
    ),
    max_size=25,
)
FAMILIES = {("s", "a"): {("s", "b"), ("s", "c")}, ("s", "b"): {("s", "c")}}


def claims(build: Build) -> set[Table]:
    found = {build.table, *build.also}
    return found.union(*(FAMILIES.get(table, ()) for table in found)) if build.family else found


@given(builds, st.integers(1, 5), st.randoms(use_true_random=False))
def test_no_two_collide_and_all_are_built(builds: list[Build], lanes: int, chance: random.Random) -> None:
    plan = Plan(builds, FAMILIES, {("s", "a"): 100, ("s", "d"): 5})
    running: dict[int, Build] = {}
    finished: list[int] = []
    while not plan.over:
        while len(running) < lanes and (one := plan.take()):
            number, build = one
            for another in running.values():
                shared = not build.exclusive and not another.exclusive
                assert shared or not claims(build) & claims(another)
            running[number] = build
        assert running, "nothing runs, and something is left"
        number = chance.choice(sorted(running))
        del running[number]
        plan.done(number)
        finished.append(number)
    assert Counter(finished) == Counter(range(len(builds)))
    place = {number: at for at, number in enumerate(finished)}
    for late, build in enumerate(builds):
        for early, before in enumerate(builds[:late]):
            meet = claims(build) & claims(before)
            if meet and Kind.OTHER in {build.kind, before.kind}:
                assert place[early] < place[late]
            needs = {build.table, *FAMILIES.get(build.table, ())} if build.kind is Kind.FOREIGN_KEY else set()
            referenced = claims(build) - needs | {*build.also}
            if build.kind is Kind.FOREIGN_KEY and before.unique and referenced & claims(before):
                assert place[early] < place[late]
