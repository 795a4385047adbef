//! Rust text as tokens with their lines: names, `::`, and single marks. Comments, strings and numbers are passed over, so that a
//! rule never stumbles over words that are only talked about.

/// A name, `::`, or one other mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// 1-based.
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl Token {
    pub(crate) fn is_name(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// The tokens of a file.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { chars: text.chars().collect(), at: 0, line: 1, found: Vec::new() };
    while lexer.at < lexer.chars.len() {
        lexer.step();
    }
    lexer.found
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    found: Vec<Token>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn advance(&mut self, count: usize) {
        for _ in 0..count {
            if self.peek(0) == '\n' {
                self.line += 1;
            }
            self.at += 1;
        }
    }

    fn ended(&self) -> bool {
        self.at >= self.chars.len()
    }

    fn push(&mut self, text: String, line: usize) {
        self.found.push(Token { line, text });
    }

    fn step(&mut self) {
        let (c, next) = (self.peek(0), self.peek(1));
        match c {
            _ if c.is_whitespace() => self.advance(1),
            '/' if next == '/' => {
                while !self.ended() && self.peek(0) != '\n' {
                    self.advance(1);
                }
            }
            '/' if next == '*' => self.block_comment(),
            '"' => self.string(),
            '\'' => self.char_or_lifetime(),
            _ if c.is_ascii_digit() => {
                while self.peek(0).is_alphanumeric() || self.peek(0) == '_' {
                    self.advance(1);
                }
            }
            _ if c.is_alphabetic() || c == '_' => self.name(),
            ':' if next == ':' => {
                self.push("::".into(), self.line);
                self.advance(2);
            }
            _ => {
                self.push(c.to_string(), self.line);
                self.advance(1);
            }
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while !self.ended() {
            match (self.peek(0), self.peek(1)) {
                ('/', '*') => {
                    depth += 1;
                    self.advance(2);
                }
                ('*', '/') => {
                    depth -= 1;
                    self.advance(2);
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.advance(1),
            }
        }
    }

    fn string(&mut self) {
        self.advance(1);
        while !self.ended() {
            match self.peek(0) {
                '\\' => self.advance(2),
                '"' => return self.advance(1),
                _ => self.advance(1),
            }
        }
    }

    fn raw_string(&mut self, hashes: usize) {
        self.advance(hashes + 1);
        while !self.ended() {
            if self.peek(0) == '"' && (1..=hashes).all(|ahead| self.peek(ahead) == '#') {
                return self.advance(hashes + 1);
            }
            self.advance(1);
        }
    }

    fn char_or_lifetime(&mut self) {
        if self.peek(1) == '\\' {
            self.advance(3);
            while !self.ended() && self.peek(0) != '\'' {
                self.advance(1);
            }
            self.advance(1);
        } else if self.peek(2) == '\'' {
            self.advance(3);
        } else {
            self.advance(1);
            while self.peek(0).is_alphanumeric() || self.peek(0) == '_' {
                self.advance(1);
            }
        }
    }

    fn name(&mut self) {
        let line = self.line;
        let mut text = String::new();
        while self.peek(0).is_alphanumeric() || self.peek(0) == '_' {
            text.push(self.peek(0));
            self.advance(1);
        }
        let hashes = (0..).take_while(|&ahead| self.peek(ahead) == '#').count();
        match text.as_str() {
            "r" | "br" | "cr" if self.peek(hashes) == '"' => self.raw_string(hashes),
            "r" if hashes == 1 => self.advance(1),
            "b" | "c" if self.peek(0) == '"' => self.string(),
            "b" if self.peek(0) == '\'' => self.char_or_lifetime(),
            _ => self.push(text, line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::tokens;

    fn words(text: &str) -> String {
        tokens(text).into_iter().map(|token| token.text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_in_comments_and_strings_are_passed_over() {
        assert_eq!(words("a // todo!\nb /* x /* y */ z */ c"), "a b c");
        assert_eq!(words(r##"f("crate::cli", 'x', '\'', '"', r#"a "q" b"#, b"z", b'"', c"n")"##), "f ( , , , , , , , )");
    }

    #[test]
    fn lifetimes_and_raw_names_do_not_confuse_it() {
        assert_eq!(words("&'a str, 'static, r#type, 1_000u64, x::<'b>()"), "& str , , type , , x :: < > ( )");
    }

    #[test]
    fn a_token_knows_its_line() {
        let lines: Vec<_> = tokens("a\n\"x\ny\"\nb /*\n*/ c").into_iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 4, 5]);
    }
}
