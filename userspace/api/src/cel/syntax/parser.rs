//! Parses an expression by recursive descent. Depth, size and the texts of errors are those of upstream's parser.

use std::sync::Arc;

use super::ast::{Ast, Entry, Expr, Field, Id, Literal, op};
use super::issue::Issue;
use super::lexer::{self, Kind, Token, shown};
use super::{literal, macros};

/// Characters of an expression.
const MAX_CHARACTERS: usize = 100_000;
/// Nesting of one rule of the grammar.
const MAX_RULE_DEPTH: usize = 250;
/// Levels of the tree: the evaluation recurses once a level.
const MAX_DEPTH: usize = 300;
/// Nodes of the tree: macros can double what they expand.
const MAX_NODES: usize = 200_000;

const OPERANDS: &str = "'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER";
/// Identifiers that the language reserves.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
const RELATIONS: [(&str, &str); 7] = [
    ("<", op::LESS),
    ("<=", op::LESS_EQUALS),
    (">=", op::GREATER_EQUALS),
    (">", op::GREATER),
    ("==", op::EQUALS),
    ("!=", op::NOT_EQUALS),
    ("in", op::IN),
];
const SUMS: [(&str, &str); 2] = [("+", op::ADD), ("-", op::SUBTRACT)];
const PRODUCTS: [(&str, &str); 3] = [("*", op::MULTIPLY), ("/", op::DIVIDE), ("%", op::MODULO)];

/// Parses an expression and expands its macros.
pub(in crate::cel) fn parse(source: &str) -> Result<Ast, Vec<Issue>> {
    let size = source.chars().count();
    if size > MAX_CHARACTERS {
        let why = format!("expression code point size exceeds limit: size: {size}, limit {MAX_CHARACTERS}");
        return Err(vec![Issue::of_all(why)]);
    }
    let (tokens, lexical) = lexer::tokens(source);
    let mut parser =
        Parser { tokens, at: 0, ast: Ast::default(), issues: lexical, depth: [0; RULES], levels: Vec::new() };
    match parser.start() {
        Ok(root) if parser.issues.is_empty() => {
            parser.ast.root = root;
            Ok(parser.ast)
        }
        Ok(_) => Err(parser.issues),
        Err(Stop) => {
            // Upstream's lexer stops with its parser.
            let end = parser.peek().offset;
            parser.issues.retain(|issue| issue.offset.is_none_or(|at| at <= end));
            Err(parser.issues)
        }
    }
}

/// Parsing stopped; the issues say why.
#[derive(Debug)]
pub(super) struct Stop;

type Parsed<T> = Result<T, Stop>;

/// Rules of the grammar that can nest.
#[derive(Clone, Copy)]
enum Rule {
    Expr,
    Relation,
    Calc,
    Product,
    Member,
}
const RULES: usize = 5;

pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    pub(super) ast: Ast,
    issues: Vec<Issue>,
    depth: [usize; RULES],
    /// The height of each node.
    levels: Vec<usize>,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.ahead(0)
    }

    fn ahead(&self, count: usize) -> &Token {
        // The last token is the end.
        &self.tokens[(self.at + count).min(self.tokens.len() - 1)]
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.peek().kind, Kind::Symbol(found) if found == symbol)
    }

    fn take(&mut self) -> usize {
        let offset = self.peek().offset;
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        offset
    }

    fn accept(&mut self, symbol: &str) -> Option<usize> {
        self.is(symbol).then(|| self.take())
    }

    fn error<T>(&mut self, message: String) -> Parsed<T> {
        self.issues.push(Issue::at(self.peek().offset, format!("Syntax error: {message}")));
        Err(Stop)
    }

    /// An error about a token where others were expected, in the words of upstream's error strategy.
    fn unexpected<T>(&mut self, expected: &str, fits: impl Fn(&Token) -> bool) -> Parsed<T> {
        let found = shown(&self.peek().text);
        let word =
            if self.peek().kind != Kind::End && fits(self.ahead(1)) { "extraneous" } else { "mismatched" };
        self.error(format!("{word} input '{found}' expecting {expected}"))
    }

    /// A symbol that must follow; upstream inserts it where what follows would fit.
    fn require(&mut self, symbol: &'static str, expected: &str) -> Parsed<usize> {
        if let Some(offset) = self.accept(symbol) {
            return Ok(offset);
        }
        let missing =
            matches!(symbol, ")" | "]" | "}") && self.peek().kind == Kind::End && !expected.contains(',');
        if missing || symbol == ":" && begins_operand(self.peek()) {
            let found = shown(&self.peek().text);
            return self.error(format!("missing '{symbol}' at '{found}'"));
        }
        self.unexpected(expected, |token| matches!(token.kind, Kind::Symbol(found) if found == symbol))
    }

    fn enter(&mut self, rule: Rule) -> Parsed<()> {
        self.depth[rule as usize] += 1;
        if self.depth[rule as usize] > MAX_RULE_DEPTH {
            return self.too_deep();
        }
        Ok(())
    }

    fn too_deep<T>(&mut self) -> Parsed<T> {
        self.issues.push(Issue::of_all(format!("expression recursion limit exceeded: {MAX_RULE_DEPTH}")));
        Err(Stop)
    }

    /// Adds a node; refuses a tree that is too deep or too large.
    pub(super) fn add(&mut self, offset: usize, expr: Expr) -> Parsed<Id> {
        let id = self.ast.add(offset, expr);
        let below = self.ast.children(id).into_iter().map(|child| self.levels[child]).max();
        let level = below.map_or(1, |below| below + 1);
        self.levels.push(level);
        if level > MAX_DEPTH || id >= MAX_NODES {
            return self.too_deep();
        }
        Ok(id)
    }

    pub(super) fn call(&mut self, offset: usize, function: &str, args: Vec<Id>) -> Parsed<Id> {
        self.add(offset, Expr::Call { function: Arc::from(function), target: None, args })
    }

    /// Reports an error after which parsing goes on.
    pub(super) fn report(&mut self, offset: usize, message: &str) -> Parsed<Id> {
        self.issues.push(Issue::at(offset, message));
        self.add(offset, Expr::Literal(Literal::Null))
    }

    fn start(&mut self) -> Parsed<Id> {
        let root = self.expr()?;
        if self.peek().kind != Kind::End {
            return self.unexpected("<EOF>", |token| token.kind == Kind::End);
        }
        Ok(root)
    }

    fn expr(&mut self) -> Parsed<Id> {
        self.enter(Rule::Expr)?;
        let mut out = self.logic(op::OR)?;
        if let Some(offset) = self.accept("?") {
            let yes = self.logic(op::OR)?;
            self.require(":", "':'")?;
            let no = self.expr()?;
            out = self.call(offset, op::CONDITIONAL, vec![out, yes, no])?;
        }
        self.depth[Rule::Expr as usize] -= 1;
        Ok(out)
    }

    /// Terms of `||`, or of `&&`. Their tree is balanced: a long chain is not deep.
    fn logic(&mut self, function: &'static str) -> Parsed<Id> {
        let symbol = if function == op::OR { "||" } else { "&&" };
        let term = |parser: &mut Parser| match function {
            op::OR => parser.logic(op::AND),
            _ => parser.relation(),
        };
        let mut terms = vec![term(self)?];
        let mut offsets = Vec::new();
        while let Some(offset) = self.accept(symbol) {
            offsets.push(offset);
            terms.push(term(self)?);
        }
        self.balanced(function, &terms, &offsets)
    }

    fn balanced(&mut self, function: &str, terms: &[Id], offsets: &[usize]) -> Parsed<Id> {
        if offsets.is_empty() {
            return Ok(terms[0]);
        }
        let middle = offsets.len() / 2;
        let left = self.balanced(function, &terms[..=middle], &offsets[..middle])?;
        let right = self.balanced(function, &terms[middle + 1..], &offsets[middle + 1..])?;
        self.call(offsets[middle], function, vec![left, right])
    }

    fn relation(&mut self) -> Parsed<Id> {
        self.chain(Rule::Relation, &RELATIONS, |parser| {
            parser.chain(Rule::Calc, &SUMS, |parser| parser.chain(Rule::Product, &PRODUCTS, Parser::unary))
        })
    }

    /// Operands joined by operators of one precedence, from the left. Each operator nests the grammar's rule.
    fn chain(
        &mut self,
        rule: Rule,
        operators: &[(&str, &str)],
        operand: impl Fn(&mut Parser) -> Parsed<Id>,
    ) -> Parsed<Id> {
        let before = self.depth[rule as usize];
        self.enter(rule)?;
        let mut left = operand(self)?;
        while let Some((_, function)) = operators.iter().find(|(symbol, _)| self.is(symbol)) {
            let offset = self.take();
            self.enter(rule)?;
            let right = operand(self)?;
            left = self.call(offset, function, vec![left, right])?;
        }
        self.depth[rule as usize] = before;
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Id> {
        for (symbol, function) in [("!", op::NOT), ("-", op::NEGATE)] {
            // A sign before a number belongs to the literal.
            let signed = symbol == "-" && matches!(self.ahead(1).kind, Kind::Int | Kind::Float);
            if !self.is(symbol) || signed {
                continue;
            }
            let (offset, mut count) = (self.peek().offset, 0);
            while self.accept(symbol).is_some() {
                count += 1;
            }
            let operand = self.member()?;
            return if count % 2 == 0 { Ok(operand) } else { self.call(offset, function, vec![operand]) };
        }
        self.member()
    }

    fn member(&mut self) -> Parsed<Id> {
        let before = self.depth[Rule::Member as usize];
        self.enter(Rule::Member)?;
        let mut out = self.primary()?;
        loop {
            if let Some(dot) = self.accept(".") {
                self.enter(Rule::Member)?;
                out = self.field(out, dot)?;
            } else if let Some(offset) = self.accept("[") {
                self.enter(Rule::Member)?;
                let optional = self.accept("?").is_some();
                if !begins_operand(self.peek()) && self.peek().kind == Kind::End {
                    return self.error(format!(
                        "mismatched input '<EOF>' expecting {{{}}}",
                        OPERANDS.replace("'!', ", "'!', '?', ")
                    ));
                }
                let at = self.expr()?;
                self.require("]", "']'")?;
                let function = if optional { op::OPTIONAL_INDEX } else { op::INDEX };
                out = self.call(offset, function, vec![out, at])?;
            } else {
                self.depth[Rule::Member as usize] = before;
                return Ok(out);
            }
        }
    }

    fn field(&mut self, operand: Id, dot: usize) -> Parsed<Id> {
        let optional = self.accept("?").is_some();
        match self.peek().kind {
            Kind::Identifier => {}
            Kind::Escaped => {
                self.issues.push(Issue::at(self.peek().offset, "unsupported syntax: '`'"));
                return Err(Stop);
            }
            _ => {
                let found =
                    if self.peek().kind == Kind::End { String::new() } else { shown(&self.peek().text) };
                let message = match found.as_str() {
                    word @ ("true" | "false" | "null") => {
                        format!("mismatched input '{word}' expecting IDENTIFIER")
                    }
                    found => format!("no viable alternative at input '.{found}'"),
                };
                let stopped = self.error(message);
                // Upstream goes on with the operator.
                return if self.is("in") { Ok(operand) } else { stopped };
            }
        }
        let name: Arc<str> = Arc::from(&*self.peek().text);
        let offset = self.take();
        if optional {
            let field = self.add(offset, Expr::Literal(Literal::String(name)))?;
            return self.call(dot, op::OPTIONAL_SELECT, vec![operand, field]);
        }
        match self.accept("(") {
            Some(open) => {
                let args = self.args()?;
                macros::expand(self, open, &name, Some(operand), args)
            }
            None => self.add(dot, Expr::Select { operand, field: name, test: false }),
        }
    }

    /// Arguments up to the closing bracket.
    fn args(&mut self) -> Parsed<Vec<Id>> {
        let mut args = Vec::new();
        if self.accept(")").is_some() {
            return Ok(args);
        }
        if self.peek().kind == Kind::End {
            return self.error(format!(
                "mismatched input '<EOF>' expecting {{{}}}",
                OPERANDS.replace("'(', ", "'(', ')', ")
            ));
        }
        loop {
            args.push(self.expr()?);
            if self.accept(",").is_none() {
                self.require(")", if self.peek().kind == Kind::End { "')'" } else { "{')', ','}" })?;
                return Ok(args);
            }
        }
    }

    fn primary(&mut self) -> Parsed<Id> {
        let token = self.peek().clone();
        match token.kind {
            Kind::Symbol("(") => {
                self.take();
                let inner = self.expr()?;
                self.require(")", "')'")?;
                Ok(inner)
            }
            Kind::Symbol("[") => self.list(),
            Kind::Symbol("{") => self.map(),
            Kind::Symbol("true") => self.literal(Literal::Bool(true)),
            Kind::Symbol("false") => self.literal(Literal::Bool(false)),
            Kind::Symbol("null") => self.literal(Literal::Null),
            Kind::Symbol("-") if matches!(self.ahead(1).kind, Kind::Int | Kind::Float) => {
                self.take();
                let number = self.peek().clone();
                self.take();
                self.checked(token.offset, literal::number(number.kind, &number.text, true))
            }
            Kind::Int | Kind::Uint | Kind::Float => {
                self.take();
                self.checked(token.offset, literal::number(token.kind, &token.text, false))
            }
            Kind::String | Kind::Bytes => {
                self.take();
                self.checked(token.offset, literal::text(token.kind, &token.text))
            }
            Kind::Symbol(".") | Kind::Identifier => self.name(),
            _ => self.unexpected(&format!("{{{OPERANDS}}}"), begins_operand),
        }
    }

    fn literal(&mut self, value: Literal) -> Parsed<Id> {
        let offset = self.take();
        self.add(offset, Expr::Literal(value))
    }

    fn checked(&mut self, offset: usize, value: Result<Literal, &'static str>) -> Parsed<Id> {
        match value {
            Ok(value) => self.add(offset, Expr::Literal(value)),
            Err(why) => self.report(offset, why),
        }
    }

    /// An identifier, a call of a function, or a message.
    fn name(&mut self) -> Parsed<Id> {
        let start = self.peek().offset;
        self.accept(".");
        if self.peek().kind != Kind::Identifier {
            return self.unexpected("IDENTIFIER", |token| token.kind == Kind::Identifier);
        }
        if self.is_message() {
            return self.message();
        }
        let name: Arc<str> = Arc::from(&*self.peek().text);
        let offset = self.take();
        let reserved = RESERVED.contains(&&*name);
        let open = self.accept("(");
        let args = match open {
            Some(_) => self.args()?,
            None => Vec::new(),
        };
        match open {
            _ if reserved => self.report(start, &format!("reserved identifier: {name}")),
            Some(open) => macros::expand(self, open, &name, None, args),
            None => self.add(offset, Expr::Ident(name)),
        }
    }

    /// Whether names joined by dots and a brace follow.
    fn is_message(&self) -> bool {
        let mut count = 0;
        while self.ahead(count).kind == Kind::Identifier {
            match self.ahead(count + 1).kind {
                Kind::Symbol("{") => return true,
                Kind::Symbol(".") => count += 2,
                _ => return false,
            }
        }
        false
    }

    fn message(&mut self) -> Parsed<Id> {
        let mut name = String::new();
        while !self.is("{") {
            name.push_str(&self.peek().text);
            self.take();
        }
        let offset = self.take();
        let mut fields = Vec::new();
        while !self.is("}") {
            if !fields.is_empty() {
                self.require(",", "{'}', ','}")?;
                if self.is("}") {
                    break;
                }
            } else if self.is(",") && matches!(self.ahead(1).kind, Kind::Symbol("}")) {
                self.take();
                break;
            }
            let optional = self.accept("?").is_some();
            let name: Arc<str> = Arc::from(&*self.peek().text);
            match self.peek().kind {
                Kind::Identifier => {}
                Kind::Escaped => {
                    self.issues.push(Issue::at(self.peek().offset, "unsupported syntax: '`'"));
                    return Err(Stop);
                }
                _ => {
                    return self.unexpected("{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}", |token| {
                        token.kind == Kind::Identifier
                    });
                }
            }
            self.take();
            let offset = self.require(":", "':'")?;
            let value = self.expr()?;
            fields.push(Field { name, value, optional, offset });
        }
        self.take();
        self.add(offset, Expr::Message { name: Arc::from(name), fields })
    }

    fn list(&mut self) -> Parsed<Id> {
        let offset = self.take();
        let (mut items, mut optional) = (Vec::new(), Vec::new());
        let mut expected = "{']', ','}";
        loop {
            if self.is(",") && items.is_empty() {
                self.take();
                self.require("]", "']'")?;
                break;
            }
            if self.accept("]").is_some() {
                break;
            }
            if !items.is_empty() {
                if self.accept(",").is_none() {
                    self.require("]", expected)?;
                }
                if self.peek().kind == Kind::End {
                    expected = "']'";
                    self.require("]", expected)?;
                }
                if self.accept("]").is_some() {
                    break;
                }
            }
            optional.push(self.accept("?").is_some());
            items.push(self.expr()?);
        }
        self.add(offset, Expr::List { items, optional })
    }

    fn map(&mut self) -> Parsed<Id> {
        let offset = self.take();
        let mut entries = Vec::new();
        loop {
            if self.is(",") && entries.is_empty() {
                self.take();
                self.require("}", "'}'")?;
                break;
            }
            if self.accept("}").is_some() {
                break;
            }
            if !entries.is_empty() {
                if self.accept(",").is_none() {
                    self.require("}", "{'}', ','}")?;
                }
                if self.peek().kind == Kind::End {
                    self.require("}", "'}'")?;
                }
                if self.accept("}").is_some() {
                    break;
                }
            }
            let optional = self.accept("?").is_some();
            let key = self.expr()?;
            self.require(":", "':'")?;
            let value = self.expr()?;
            entries.push(Entry { key, value, optional });
        }
        self.add(offset, Expr::Map(entries))
    }
}

/// Whether an operand can begin with the token.
fn begins_operand(token: &Token) -> bool {
    match token.kind {
        Kind::Symbol(symbol) => {
            matches!(symbol, "[" | "{" | "(" | "." | "-" | "!" | "true" | "false" | "null")
        }
        Kind::Escaped | Kind::End => false,
        _ => true,
    }
}
