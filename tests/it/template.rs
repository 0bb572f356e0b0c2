//! Templates through the public interface: lazy variables, unknown values, errors, files, filters against Ansible's results.

use indexmap::IndexMap;
use kprov::source::{InputError, Source};
use kprov::template::{Scope, Syntax, Templar, TemplateError, Truth, is_omit};
use kprov::value::Value;
use kprov::vars::Var;
use kprov::yaml;
use std::sync::Arc;

/// Variables from a YAML text, and those of other hosts.
#[derive(Default)]
struct Names {
    vars: IndexMap<String, Var>,
    hosts: IndexMap<String, Arc<Names>>,
}

impl Names {
    /// Variables as a vars file has them, with origins.
    fn of(yaml: &str) -> Self {
        let node = yaml::load(&Source::new("vars.yml", yaml)).unwrap();
        let pairs = node.as_map().unwrap_or_default();
        let vars = pairs.iter().map(|(key, value)| (key.key_text(), Var::at(value.to_value(), value.span.clone())));
        Self { vars: vars.collect(), hosts: IndexMap::new() }
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.vars.insert(name.to_owned(), Var::from(value.into()));
        self
    }

    fn host(mut self, name: &str, vars: Names) -> Self {
        self.hosts.insert(name.to_owned(), Arc::new(vars));
        self
    }

    fn scope(self) -> Arc<dyn Scope> {
        Arc::new(self)
    }
}

impl Scope for Names {
    fn lookup(&self, name: &str) -> Option<Var> {
        self.vars.get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.vars.keys().cloned().collect()
    }

    fn hosts(&self) -> Vec<String> {
        self.hosts.keys().cloned().collect()
    }

    fn host(&self, name: &str) -> Option<Arc<dyn Scope>> {
        self.hosts.get(name).map(|host| host.clone() as Arc<dyn Scope>)
    }
}

fn render(text: &str, scope: &Arc<dyn Scope>) -> Result<Value, TemplateError> {
    Templar::new().render_str(text, scope)
}

fn value(yaml: &str) -> Value {
    yaml::load(&Source::new("value", yaml)).unwrap().to_value()
}

fn unknown() -> Value {
    Value::Unknown("pki : Create the CA".into())
}

#[test]
fn a_whole_expression_keeps_its_type_and_text_does_not() {
    let scope = Names::of("n: 5\nitems: [1, 'a']\nname: x\nnothing:\n").scope();
    for (text, expected) in [
        ("{{ n }}", "5"),
        ("{{ n + 1 }}", "6"),
        (" {{ n }}\n", "5"),
        ("{{- n -}}", "5"),
        ("{{ n > 4 }}", "true"),
        ("{{ items }}", "[1, a]"),
        ("{{ items[0] }}", "1"),
        ("{{ {'a': {'b': n}} }}", "{a: {b: 5}}"),
        ("{{ nothing }}", "null"),
        ("{{ 1 / 2 }}", "0.5"),
        ("{{ n }}{{ n }}", "'55'"),
        ("a{{ n }}", "a5"),
        ("{{ items }} ", "[1, a]"),
        ("x{{ items }}", "\"x[1, 'a']\""),
        ("<{{ nothing }}>", "<>"),
        ("{% if n == 5 %}yes{% endif %}", "'yes'"),
        ("{{ '}}' }}", "'}}'"),
        ("no template", "no template"),
    ] {
        assert_eq!(render(text, &scope).unwrap(), value(expected), "{text}");
    }
}

#[test]
fn variables_are_evaluated_when_they_are_read() {
    let scope = Names::of(
        "dir: /etc\nconfig:\n  path: '{{ dir }}/app'\n  broken: '{{ not_there }}'\nlist: ['{{ dir }}', '{{ config.path }}']\nself_reference:\n  a: 1\n  b: '{{ self_reference.a + 1 }}'\n",
    )
    .scope();
    assert_eq!(render("{{ config.path }}", &scope).unwrap(), value("/etc/app"));
    assert_eq!(render("{{ list }}", &scope).unwrap(), value("[/etc, /etc/app]"));
    assert_eq!(render("{{ list | join(':') }}", &scope).unwrap(), value("'/etc:/etc/app'"));
    assert_eq!(render("{{ self_reference.b }}", &scope).unwrap(), value("2"));
    assert!(render("{{ config }}", &scope).unwrap_err().to_string().contains("`not_there` is undefined"));
}

#[test]
fn data_is_never_evaluated() {
    let scope = Names::of("copy: '{{ result.stdout }}'").with("result", value("{stdout: '{{ 1 + 1 }}'}")).scope();
    assert_eq!(render("{{ copy }}", &scope).unwrap(), Value::from("{{ 1 + 1 }}"));
    assert_eq!(render("-{{ result }}", &scope).unwrap(), Value::from("-{'stdout': '{{ 1 + 1 }}'}"));
}

#[test]
fn a_cycle_names_the_chain_with_its_lines() {
    let scope = Names::of("a: '{{ b }}'\nb: 'x{{ c }}'\nc: '{{ a }}'\n").scope();
    let error = render("{{ a }}", &scope).unwrap_err().to_string();
    assert_eq!(
        error,
        "vars.yml:1: `a` refers to itself: `a` (vars.yml:1) -> `b` (vars.yml:2) -> `c` (vars.yml:3) -> `a`"
    );
}

#[test]
fn variables_that_grow_without_end_are_an_error_not_a_crash() {
    // Each level is another name, so that there is no cycle to find. Run where the stack is as small as in a worker.
    let text: String = (0..200).map(|i| format!("v{i}: '{{{{ v{} }}}}'\n", i + 1)).collect();
    let run = move || {
        let scope = Names::of(&text).scope();
        render("{{ v0 }}", &scope).unwrap_err().to_string()
    };
    let error = std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
    assert!(error.contains("more than 40 deep"), "{error}");
}

#[test]
fn undefined_names_point_at_the_line_and_the_near_miss() {
    let scope =
        Names::of("kube_version: 1.36.0\nurl: 'https://x/{{ kube_versoin }}/y'\nouter: '{{ url }}'\nmap: {image: x}\n")
            .scope();
    let error = InputError::from(render("{{ outer }}", &scope).unwrap_err());
    assert_eq!(
        error.message,
        "`kube_versoin` is undefined (evaluating `url` at vars.yml:2, read by `outer` at vars.yml:3)"
    );
    assert_eq!(error.help.as_deref(), Some("did you mean `kube_version`?"));
    let span = error.span.unwrap();
    assert_eq!((span.to_string().as_str(), span.text()), ("vars.yml:2", "kube_versoin"));
    let error = render("{{ map.imagee }}", &scope).unwrap_err();
    assert_eq!(
        (error.message.as_str(), error.help.as_deref()),
        ("`map.imagee` is undefined", Some("did you mean `image`?"))
    );
    // In a task the place is added by whoever knows it.
    let task = Source::new("main.yml", "- debug:\n    msg: \"v{{ kube_versoin }}\"\n");
    let at = task.text.find("\"v").unwrap();
    let error = render("v{{ kube_versoin }}", &scope).unwrap_err().into_input(&task.span(at, task.text.len() - 1));
    assert_eq!(error.span.unwrap().text(), "kube_versoin");
}

#[test]
fn errors_do_not_quote_values() {
    let scope = Names::of("password: hunter2\nlist: [hunter2]\nmap: {k: hunter2}\n").scope();
    for text in [
        "{{ password.x.y }}",
        "{{ password + 1 }}",
        "{{ list | first + 1 }}",
        "{{ map.k | from_json }}",
        "{{ map | int(base=99) }}",
    ] {
        let error = render(text, &scope).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn what_is_unknown_stays_unknown() {
    let scope = Names::of(
        "known: 1\nthrough: '{{ u.stdout }}'\ntext: 'a{{ u }}'\npart: {a: '{{ u }}', b: 2}\nlist: [1, '{{ u }}']\n",
    )
    .with("u", unknown())
    .with("half", [("rc", unknown()), ("changed", Value::Bool(true))].into_iter().collect::<Value>())
    .scope();
    for text in [
        "{{ u }}",
        "{{ u.a.b }}",
        "{{ u['x'] }}",
        "{{ u[0] }}",
        "x{{ u }}",
        "{{ u | default('x') }}",
        "{{ u.a | default('x', true) }}",
        "{{ u | int }}",
        "{{ u == 1 }}",
        "{{ u != 1 }}",
        "{{ 1 in u }}",
        "{{ u in [1] }}",
        "{{ known + u }}",
        "{{ u ~ 'x' }}",
        "{{ [u, 1] | length }}",
        "{{ {'a': u} }}",
        "{{ 'a' if u else 'b' }}",
        "{{ not u }}",
        "{{ u is none }}",
        "{{ u is string }}",
        "{{ through }}",
        "{{ text }}",
        "{{ through ~ '' }}",
        "{{ half.rc }}",
        "{{ half.rc == 0 }}",
        "{{ list | join }}",
        "{{ list[1] }}",
        "{{ part.a }}",
        "{{ list | map('string') | list }}",
        "{{ [1, 2] | select('in', list) | list }}",
        "{{ {'k': 1}[u] | default(2) }}",
        "{% for x in u %}{{ x }}{% endfor %}",
        "{% set y = u %}{{ y is defined }}{{ y == 1 }}",
        "{{ known if u is defined and u == 2 else 3 }}",
        "{{ u.x is defined }}",
        "{{ [u] | select('defined') | list == [1] }}",
        "{{ vars.u }}",
        "{{ 'text: ' ~ list }}",
        "{{ u.get('x') }}",
        "{{ half | dict2items | selectattr('key', 'equalto', 'rc') | map(attribute='value') | first == 3 }}",
    ] {
        let found = render(text, &scope);
        assert!(
            matches!(found, Ok(Value::Unknown(ref after)) if after.task == "pki : Create the CA"),
            "{text}: {found:?}"
        );
    }
    for (text, expected) in [
        ("{{ u is defined }}", "true"),
        ("{{ u is not defined }}", "false"),
        ("{{ u is undefined or known }}", "1"),
        ("{{ half.rc is defined }}", "true"),
        ("{{ half.changed }}", "true"),
        ("{{ half | length }}", "2"),
        ("{{ list | length }}", "2"),
        ("{{ list[0] }}", "1"),
        ("{{ part.b }}", "2"),
        ("{{ 5 if u is defined else 6 }}", "5"),
        ("{% if u is defined %}there{% endif %}", "there"),
        ("{{ false and u }}", "false"),
        ("{{ known or u }}", "1"),
    ] {
        assert_eq!(render(text, &scope).unwrap(), value(expected), "{text}");
    }
    // A container that was not looked into keeps what is known.
    let part = Value::Map([("a".to_owned(), unknown()), ("b".to_owned(), Value::Int(2))].into_iter().collect());
    assert_eq!(render("{{ part }}", &scope).unwrap(), part);
    let templar = Templar::new();
    let rendered = templar.render(&value("{x: '{{ u }}', y: 'k{{ known }}'}"), &scope).unwrap();
    assert_eq!(rendered.get("x"), Some(&unknown()));
    assert_eq!(rendered.get("y"), Some(&Value::from("k1")));
    let file = templar.render_file("a={{ known }}\nb={{ u }}\n", "t.j2", &scope).unwrap();
    assert_eq!(file, unknown());
}

#[test]
fn missing_values_may_be_forgiven_anywhere_on_the_way() {
    let scope = Names::of("a: {}\nchain: '{{ nowhere.x }}'\n").host("n1", Names::of("x: 1")).scope();
    for (text, expected) in [
        ("{{ nowhere | default(1) }}", "1"),
        ("{{ a.b.c.d | default('x') }}", "x"),
        ("{{ nowhere.b['c'] | d('x') }}", "x"),
        ("{{ a.b.c is defined }}", "false"),
        ("{{ a.b.c is defined and a.b.c.d > 1 }}", "false"),
        ("{{ hostvars.n2.x.y | default('none') }}", "none"),
        ("{{ hostvars['n1'].x | default(2) }}", "1"),
        ("{{ chain | default('c') }}", "c"),
        ("{{ chain is defined }}", "false"),
        ("{{ '' | default('e', true) }}", "e"),
        ("{% for h in ['n1'] %}{{ hostvars[h].x }}{% endfor %}", "'1'"),
    ] {
        assert_eq!(render(text, &scope).unwrap(), value(expected), "{text}");
    }
    for text in [
        "{{ a.b == 1 }}",
        "{{ a.b.c == (1 | default(2)) }}",
        "{{ a.b.c | default(a.x) ~ '' }}",
        "{{ a.b.c | upper | default('x') }}",
        "{{ chain }}",
        "{{ 'x' if false }}",
    ] {
        assert!(render(text, &scope).is_err(), "{text}: {:?}", render(text, &scope));
    }
}

#[test]
fn conditions() {
    let scope = Names::of("yes_text: 'yes'\nno_text: 'false'\nitems: []\nn: 0\n").with("u", unknown()).scope();
    let templar = Templar::new();
    let check = |text: &str| templar.condition(&value(text), &scope);
    for (text, expected) in [
        ("true", Truth::True),
        ("'n == 0'", Truth::True),
        ("'n'", Truth::False),
        ("'items'", Truth::False),
        ("'yes_text'", Truth::True),
        ("'yes_text | bool and not items'", Truth::True),
        ("'{{ n == 0 }}'", Truth::True),
        ("[n == 0, n == 1]", Truth::False),
        ("['u.rc == 0', 'n == 1']", Truth::False),
        ("['u.rc == 0', 'n == 0']", Truth::Unknown("pki : Create the CA".into())),
        ("'u is defined'", Truth::True),
        ("'u'", Truth::Unknown("pki : Create the CA".into())),
        ("\"{'a': {'b': 1}} == {'a': {'b': 1}}\"", Truth::True),
        ("[]", Truth::True),
    ] {
        assert_eq!(check(text).unwrap(), expected, "{text}");
    }
    assert!(check("'no_text'").unwrap_err().help.unwrap().contains("| bool"));
    assert!(check("'n == '").unwrap_err().to_string().contains("syntax"));
    assert!(check("'n }} {{ n'").is_err());
    assert!(check("'n == 0 and nope'").unwrap_err().to_string().contains("`nope` is undefined"));
}

#[test]
fn omit_leaves_keys_and_items_out() {
    let scope = Names::default().scope();
    let templar = Templar::new();
    let rendered = templar
        .render(&value("{mode: '{{ nowhere | default(omit) }}', list: ['{{ omit }}', a], path: /x}"), &scope)
        .unwrap();
    assert_eq!(rendered, value("{list: [a], path: /x}"));
    assert!(is_omit(&render("{{ omit }}", &scope).unwrap()));
    assert!(render("x{{ omit }}", &scope).is_err());
}

#[test]
fn hostvars_are_evaluated_with_the_other_hosts_variables() {
    let host = |ip: &str| Names::of(&format!("ip: {ip}\naddress: '{{{{ ip }}}}:80'\n"));
    let scope = Names::of("ip: 10.0.0.9\ngroups: {all: [n1, n2]}\n")
        .host("n1", host("10.0.0.1"))
        .host("n2", host("10.0.0.2"))
        .scope();
    assert_eq!(render("{{ hostvars['n2'].address }}", &scope).unwrap(), value("'10.0.0.2:80'"));
    assert_eq!(
        render("{{ groups.all | map('extract', hostvars, 'address') | join(',') }}", &scope).unwrap(),
        value("'10.0.0.1:80,10.0.0.2:80'")
    );
    let error = render("{{ hostvars['n3'].address }}", &scope).unwrap_err();
    assert!(error.message.contains("hostvars[\"n3\"]") || error.message.contains("hostvars['n3']"), "{error}");
    assert_eq!(error.help.as_deref(), Some("did you mean `n1`?"));
}

#[test]
fn files_follow_the_template_module() {
    let scope = Names::of("flag: true\nitems: [a, b]\n").scope();
    let templar = Templar::new();
    let text = "{% if flag %}\nx=1\n{% endif %}\n  {% for i in items %}\n- {{ i }}\n  {% endfor %}\nend\n";
    let rendered = templar.render_file(text, "t.j2", &scope).unwrap();
    assert_eq!(rendered, Value::from("x=1\n  - a\n  - b\n  end\n"));
    let rendered = templar.render_file(&format!("#jinja2: lstrip_blocks: True\n{text}"), "t.j2", &scope).unwrap();
    assert_eq!(rendered, Value::from("x=1\n- a\n- b\nend\n"));
    let rendered = templar
        .render_file(
            "#jinja2: variable_start_string:'[[', variable_end_string:']]'\n[[ items[0] ]] {{ x }}\n",
            "t.j2",
            &scope,
        )
        .unwrap();
    assert_eq!(rendered, Value::from("a {{ x }}\n"));
    let error = templar.render_file("#jinja2: trim_block: False\nx", "t.j2", &scope).unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.help.as_deref()),
        ("t.j2:1: unknown template option `trim_block`", Some("did you mean `trim_blocks`?"))
    );
    let syntax = Syntax { trim_blocks: false, ..Syntax::default() };
    let (rendered, _) = templar.render_file_with("{% if flag %}\nx\n{% endif %}", "t.j2", &scope, &syntax).unwrap();
    assert_eq!(rendered, Value::from("\nx\n"));
    for (text, line, caret) in [
        ("a\nb {{ itemz }}\n", 2, "itemz"),
        ("#jinja2: trim_blocks:True\n\n{{ items | joinn }}\n", 3, "joinn"),
        ("a\n{% if flag %}\n", 2, ""),
        ("{{ flag | bool", 1, ""),
    ] {
        let error = templar.render_file(text, "t.j2", &scope).unwrap_err();
        let span = error.span.clone().unwrap();
        assert_eq!(span.line(), line, "{error}");
        assert!(span.text().contains(caret), "{error}: {:?}", span.text());
    }
}

#[test]
fn a_secret_that_was_read_is_noted() {
    let mut names = Names::of("url: 'http://u:{{ password }}@h'\nplain: 1\n");
    names.vars.insert("password".into(), Var { secret: true, ..Var::from(Value::from("hunter2")) });
    let scope = names.scope();
    let templar = Templar::new();
    assert!(templar.render_noting(&Value::from("{{ url }}"), &scope).unwrap().1);
    assert!(!templar.render_noting(&Value::from("{{ plain }}"), &scope).unwrap().1);
}

#[test]
fn reads_tells_which_names_a_task_waits_for() {
    let scope = Names::of("url: 'http://{{ host.ip }}:{{ port }}'\nport: '{{ result.port }}'\nloop_a: '{{ loop_b }}'\nloop_b: '{{ loop_a }}'\n").scope();
    let templar = Templar::new();
    let names = |set: std::collections::BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(
        names(templar.reads("{{ a.b }} {% for x in c %}{{ x }}{{ d | default(e) }}{% endfor %}{{ range(3) }}")),
        "a c d e"
    );
    assert_eq!(names(templar.reads("{{ result.rc == 0 and hostvars[h].x }}")), "h hostvars result");
    assert_eq!(names(templar.reads_deep(&value("{u: '{{ url }}', n: 1}"), &scope)), "host port result url");
    assert_eq!(names(templar.reads_deep(&Value::from("{{ loop_a is defined }}"), &scope)), "loop_a loop_b");
    assert!(templar.reads("{{ lookup('vars', name) }}").contains("vars"));
    assert!(templar.reads("{% include name %}").contains("vars"));
    assert_eq!(names(templar.reads("plain text")), "");
}

#[test]
fn expressions_give_what_ansible_gives() {
    let scope = Names::of(include_str!("template_variables.yml")).scope();
    let mut wrong = String::new();
    for line in include_str!("template_expressions.tsv").lines() {
        let (expression, expected) = line.split_once('\t').unwrap();
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        match render(&format!("{{{{ {expression} }}}}"), &scope) {
            Ok(found) if serde_json::Value::from(&found) == expected => {}
            Ok(found) => {
                wrong +=
                    &format!("{expression}\n  expected {expected}\n  found    {}\n", serde_json::Value::from(&found))
            }
            Err(error) => wrong += &format!("{expression}\n  expected {expected}\n  {error}\n"),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// What is undefined is an error that names it, also within containers and arguments; what forgives it still does.
#[test]
fn undefined_values_are_errors_as_in_ansible() {
    let scope = Names::of(include_str!("template_variables.yml")).scope();
    let mut wrong = String::new();
    for line in include_str!("template_undefined.tsv").lines() {
        let (expression, expected) = line.split_once('\t').unwrap();
        let found = render(&format!("{{{{ {expression} }}}}"), &scope);
        let fits = match (&found, serde_json::from_str::<serde_json::Value>(expected)) {
            (Ok(found), Ok(expected)) => serde_json::Value::from(found) == expected,
            (Err(error), Err(_)) => error.to_string().contains(expected),
            _ => false,
        };
        if !fits {
            wrong += &format!("{expression}\n  expected {expected}\n  found    {found:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    // Within text, and through a variable: the place is the variable's.
    let scope = Names::of("list: [a, '{{ nope }}']\n").scope();
    for text in
        ["x {{ list }}", "{{ list | join(',') }}", "{{ list | sort }}", "{% for x in [nope] %}{{ x }}{% endfor %}"]
    {
        let error = render(text, &scope).unwrap_err().to_string();
        assert!(error.contains("`nope` is undefined"), "{text}: {error}");
        assert_eq!(text.contains("list"), error.contains("vars.yml:1"), "{text}: {error}");
    }
}

/// Every place in a value, as the value with that place unknown.
fn with_one_unknown(value: &Value) -> Vec<Value> {
    let mut out = vec![unknown()];
    match value {
        Value::List(items) => {
            for i in 0..items.len() {
                out.extend(with_one_unknown(&items[i]).into_iter().map(|part| {
                    let mut items = items.clone();
                    items[i] = part;
                    Value::List(items)
                }));
            }
        }
        Value::Map(map) => {
            for (key, item) in map {
                out.extend(with_one_unknown(item).into_iter().map(|part| {
                    let mut map = map.clone();
                    map.insert(key.clone(), part);
                    Value::Map(map)
                }));
            }
        }
        _ => {}
    }
    out
}

/// Whether what is known in `found` is what `expected` has there.
fn agrees(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Unknown(_), _) => true,
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| agrees(a, b)),
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| agrees(a, b)))
        }
        (a, b) => a == b,
    }
}

/// With any part of any variable unknown, an expression is unknown or what it would be anyway; never wrong, never an error.
#[test]
fn no_expression_guesses_an_unknown_value() {
    let templar = Templar::new();
    let all = Names::of(include_str!("template_variables.yml"));
    let mut wrong = String::new();
    let mut tried = 0;
    for line in include_str!("template_expressions.tsv").lines() {
        let (expression, _) = line.split_once('\t').unwrap();
        let text = format!("{{{{ {expression} }}}}");
        let base = Names { vars: all.vars.clone(), hosts: IndexMap::new() }.scope();
        let Ok(expected) = templar.render_str(&text, &base) else { continue };
        for name in templar.reads(&text) {
            let Some(var) = all.vars.get(&name) else { continue };
            for part in with_one_unknown(&var.value) {
                let scope = Names { vars: all.vars.clone(), hosts: IndexMap::new() }.with(&name, part.clone()).scope();
                tried += 1;
                match templar.render_str(&text, &scope) {
                    Ok(found) if agrees(&found, &expected) => {}
                    other => wrong += &format!("{expression}\n  with {name} = {part}\n  {other:?}\n"),
                }
            }
        }
    }
    assert!(tried > 500, "{tried}");
    assert!(wrong.is_empty(), "{wrong}");
}
