package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"surgeon/engine/report"
)

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help stands below the summary in --help.
func (*completionCommand) Help() string {
	return `To use it in this shell and in new ones:

	bash: echo 'source <(surgeon completion bash)' >> ~/.bashrc
	zsh:  echo 'source <(surgeon completion zsh)' >> ~/.zshrc    (after compinit)
	fish: surgeon completion fish > ~/.config/fish/completions/surgeon.fish`
}

func (c *completionCommand) Run(s *session, app *kong.Kong) error {
	commands := completions(app.Model)
	switch c.Shell {
	case "bash":
		return s.print(bashCompletion(commands))
	case "zsh":
		return s.print(zshCompletion(commands))
	}
	return s.print(fishCompletion(commands))
}

// value is what a flag or an argument takes, as far as a shell can help with it.
type value uint8

const (
	nothing value = iota // a flag that is on or off
	free                 // a number, or anything else that a shell cannot foresee
	file
	directory
	oneOf // one of some words
)

// completed is what a shell knows about a flag or an argument.
type completed struct {
	long, short, help string
	takes             value
	words             []string // of oneOf
	repeated          bool
}

// completedCommand is what a shell knows about a command.
type completedCommand struct {
	name, help string
	flags      []completed
	argument   *completed // the only one, or nil
}

// completions walks the grammar, so that the scripts know every flag that the parser knows.
func completions(app *kong.Application) []completedCommand {
	var all []completedCommand
	for _, node := range app.Children {
		c := completedCommand{name: node.Name, help: node.Help}
		for _, group := range node.AllFlags(true) {
			for _, f := range group {
				flag := completedValue(f.Value, f.PlaceHolder)
				flag.long = f.Name
				if f.Short != 0 {
					flag.short = string(f.Short)
				}
				c.flags = append(c.flags, flag)
			}
		}
		if len(node.Children) > 0 { // its first argument is one of them, and it takes the flags of all
			sub := completions(&kong.Application{Node: node})
			argument := completed{takes: oneOf}
			for _, child := range sub {
				argument.words = append(argument.words, child.name)
				for _, f := range child.flags {
					if !slices.ContainsFunc(c.flags, func(g completed) bool { return g.long == f.long }) {
						c.flags = append(c.flags, f)
					}
				}
			}
			c.argument = &argument
		}
		for _, p := range node.Positional {
			placeholder := "FILE"
			if p.Tag.PlaceHolder != "" {
				placeholder = p.Tag.PlaceHolder
			}
			argument := completedValue(p, placeholder)
			c.argument = &argument
		}
		all = append(all, c)
	}
	return all
}

func completedValue(v *kong.Value, placeholder string) completed {
	c := completed{help: v.Help, takes: free, repeated: v.Target.Kind() == reflect.Slice}
	switch {
	case v.IsBool():
		c.takes = nothing
	case v.Enum != "":
		c.takes, c.words = oneOf, strings.FieldsFunc(v.Enum, func(r rune) bool { return r == ',' })
	case placeholder == "FILE":
		c.takes = file
	case placeholder == "DIR":
		c.takes = directory
	case placeholder == "DEVICE":
		c.takes, c.words = oneOf, []string{"auto", "cpu", "cuda"}
	}
	return c
}

// bashCompletion falls back to file names wherever it offers nothing else.
func bashCompletion(commands []completedCommand) string {
	var b strings.Builder
	var names []string
	for _, c := range commands {
		names = append(names, c.name)
	}
	fmt.Fprintf(&b, `# bash completion of surgeon
_surgeon() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
    COMPREPLY=()
    if [[ $cur == '=' ]]; then # --flag=: the shell cuts words at =
        cur=''
    elif [[ $prev == '=' ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=($(compgen -W '%s --help --version' -- "$cur"))
        return
    fi
    case $command in
`, strings.Join(names, " "))
	for _, c := range commands {
		fmt.Fprintf(&b, "    %s)\n        case $prev in\n", c.name)
		var flags []string
		for _, f := range c.flags {
			pattern := "--" + f.long
			flags = append(flags, pattern)
			if f.short != "" {
				pattern += "|-" + f.short
			}
			switch f.takes {
			case oneOf:
				fmt.Fprintf(&b, "        %s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;\n", pattern, strings.Join(f.words, " "))
			case file:
				fmt.Fprintf(&b, "        %s) return ;;\n", pattern)
			case directory:
				fmt.Fprintf(&b, "        %s) compopt -o filenames; COMPREPLY=($(compgen -d -- \"$cur\")); return ;;\n", pattern)
			case free:
				fmt.Fprintf(&b, "        %s) compopt +o default; return ;;\n", pattern)
			}
		}
		words := ""
		if c.argument != nil && c.argument.takes == oneOf {
			words = strings.Join(c.argument.words, " ")
		}
		fmt.Fprintf(&b, "        esac\n        if [[ $cur == -* ]]; then\n            COMPREPLY=($(compgen -W '%s' -- \"$cur\"))\n", strings.Join(flags, " "))
		switch {
		case words != "":
			fmt.Fprintf(&b, "        else\n            COMPREPLY=($(compgen -W '%s' -- \"$cur\"))\n", words)
		case c.argument == nil:
			b.WriteString("        else\n            compopt +o default\n")
		}
		b.WriteString("        fi ;;\n")
	}
	b.WriteString("    esac\n}\ncomplete -o default -F _surgeon surgeon\n")
	return b.String()
}

// zshCompletion works both when it is read by source and as a file _surgeon on fpath.
func zshCompletion(commands []completedCommand) string {
	var b strings.Builder
	b.WriteString("#compdef surgeon\n_surgeon() {\n    local -a commands=(\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "        %s\n", report.ShellQuote(c.name+":"+c.help))
	}
	b.WriteString(`    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
`)
	for _, c := range commands {
		fmt.Fprintf(&b, "    %s)\n        _arguments -s", c.name)
		for _, f := range c.flags {
			spec := "[" + zshText(f.help) + "]" + zshAction(f)
			equals, plus := "=", "+"
			if f.takes == nothing {
				equals, plus = "", ""
			}
			star := ""
			if f.repeated {
				star = "*"
			}
			if f.short != "" {
				fmt.Fprintf(&b, " \\\n            %s{-%s%s,--%s%s}%s", report.ShellQuote(fmt.Sprintf("(-%s --%s)", f.short, f.long)), f.short, plus, f.long, equals, report.ShellQuote(spec))
			} else {
				fmt.Fprintf(&b, " \\\n            %s", report.ShellQuote(star+"--"+f.long+equals+spec))
			}
		}
		if c.argument != nil {
			which := "1"
			if c.argument.repeated {
				which = "*"
			}
			fmt.Fprintf(&b, " \\\n            %s", report.ShellQuote(which+zshAction(*c.argument)))
		}
		b.WriteString(" ;;\n")
	}
	b.WriteString("    esac\n}\nif [[ $funcstack[1] == _surgeon ]]; then\n    _surgeon \"$@\"\nelse\n    compdef _surgeon surgeon\nfi\n")
	return b.String()
}

func zshAction(c completed) string {
	switch c.takes {
	case nothing:
		return ""
	case file:
		return ":file:_files"
	case directory:
		return ":directory:_directories"
	case oneOf:
		return ":value:(" + strings.Join(c.words, " ") + ")"
	}
	return ":value: "
}

// zshText escapes what has a meaning inside the brackets of _arguments.
func zshText(s string) string {
	return strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `:`, `\:`).Replace(s)
}

func fishCompletion(commands []completedCommand) string {
	var b strings.Builder
	b.WriteString("# fish completion of surgeon\ncomplete -c surgeon -f\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "complete -c surgeon -n __fish_use_subcommand -a %s -d %s\n", c.name, fishQuote(c.help))
	}
	b.WriteString("complete -c surgeon -n __fish_use_subcommand -l help -s h -d 'Show help.'\ncomplete -c surgeon -n __fish_use_subcommand -l version -d 'Print the version.'\n")
	for _, c := range commands {
		where := "complete -c surgeon -n '__fish_seen_subcommand_from " + c.name + "'"
		for _, f := range c.flags {
			b.WriteString(where + " -l " + f.long)
			if f.short != "" {
				b.WriteString(" -s " + f.short)
			}
			b.WriteString(fishAction(f) + " -d " + fishQuote(f.help) + "\n")
		}
		if c.argument != nil {
			switch c.argument.takes {
			case oneOf:
				fmt.Fprintf(&b, "%s -a %s\n", where, fishQuote(strings.Join(c.argument.words, " ")))
			case directory:
				b.WriteString(where + " -a '(__fish_complete_directories)'\n")
			default:
				b.WriteString(where + " -F\n")
			}
		}
	}
	return b.String()
}

func fishAction(c completed) string {
	switch c.takes {
	case nothing:
		return ""
	case file:
		return " -r -F"
	case directory:
		return " -x -a '(__fish_complete_directories)'"
	case oneOf:
		return " -x -a " + fishQuote(strings.Join(c.words, " "))
	}
	return " -x"
}

// fishQuote is a word in single quotes for fish, which knows escapes inside them.
func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
