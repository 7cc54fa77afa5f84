package main

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// configBytesMax is far above any sensible run file, and keeps a wrong file name from reading a model.
const configBytesMax = 1 << 20

// configFile is the value of --config. When the parser meets it, the values in the file become the defaults of the other
// flags.
type configFile string

// configValues are the values in a YAML file, by the names of the flags, as the parser of the command line takes them.
type configValues map[string]any

// BeforeResolve is called by the parser before it fills in what the command line leaves open.
func (c configFile) BeforeResolve(ctx *kong.Context, trace *kong.Path, s *session) error {
	path := ctx.FlagValue(trace.Flag).(configFile)
	values, err := readConfig(string(path))
	if err != nil {
		return err
	}
	ctx.AddResolver(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		return values[flag.Name], nil // nil where the file does not name the flag
	}))
	s.config = values
	return nil
}

// commandLineOnly are the flags of prune that no file holds: they say what the program does this time and how it tells of it,
// not what a run is.
var commandLineOnly = []string{"config", "cpuprofile", "dry-run", "help", "json", "log-format", "quiet", "verbose", "version"}

// readYAML reads a file that is not longer than a YAML file with what is expected would be.
func readYAML(path, expected string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, configBytesMax+1))
	if err == nil && len(data) > configBytesMax {
		err = fmt.Errorf("%s is longer than %d bytes; a YAML file with %s is expected", path, configBytesMax, expected)
	}
	if err == nil && (!utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0) {
		err = fmt.Errorf("%s is no text; a YAML file with %s is expected", path, expected)
	}
	return bytes.TrimPrefix(data, []byte("\ufeff")), err // of editors that begin every file with it
}

// readConfig reads a YAML file. What is wrong in it is refused with file, line, column and the lines around it.
func readConfig(path string) (configValues, error) {
	data, err := readYAML(path, "the options of a run")
	if err != nil {
		return nil, refuse("--config: %w", err)
	}
	values, err := parseConfig(data)
	if err != nil {
		return nil, located(path, err)
	}
	return values, nil
}

// located refuses what is wrong in a YAML file, with its place and the lines around that.
func located(path string, err error) error {
	if bad, ok := errors.AsType[yaml.Error](err); ok && bad.GetToken() != nil { // of the YAML library
		sentence := bad.GetMessage()
		if t, ok := errors.AsType[*yaml.TypeError](err); ok { // which names types of Go
			sentence = inWords(t.DstType.Kind()) + " is expected here"
		}
		err = &configError{sentence, bad.GetToken()}
	}
	if bad, ok := errors.AsType[*configError](err); ok {
		at := bad.at.Position
		return refuse("%s:%d:%d: %s\n%s", path, at.Line, at.Column, bad.sentence, bad.source())
	}
	return refuse("%s: %w", path, err)
}

// inWords is what a value of this kind is called in a YAML file.
func inWords(kind reflect.Kind) string {
	switch kind {
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number"
	case reflect.String:
		return "a text"
	case reflect.Slice:
		return "a list"
	}
	return "a mapping"
}

// configError is something wrong at a place in a YAML file.
type configError struct {
	sentence string
	at       *token.Token
}

func (e *configError) Error() string { return e.sentence }

// source is the lines around the place, with a caret below it.
func (e *configError) source() string {
	_, lines, _ := strings.Cut(yaml.FormatErrorWithToken("", e.at, false, true), "\n")
	return strings.TrimRight(lines, "\n")
}

// parseConfig reads one YAML document: a mapping from names of flags to plain values. The types are those of the options,
// taken to the letter: no 2.5 for a whole number, no "0.3" in quotes for a number.
func parseConfig(data []byte) (values configValues, err error) {
	defer func() {
		if p := recover(); p != nil { // the YAML library may on a broken file
			values, err = nil, fmt.Errorf("this is not YAML: %v", p)
		}
	}()
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, err
	}
	bodies := slices.DeleteFunc(slices.Clone(file.Docs), func(d *ast.DocumentNode) bool { return d.Body == nil })
	switch {
	case len(bodies) == 0:
		return configValues{}, nil
	case len(bodies) > 1:
		return nil, &configError{"a second YAML document begins here; one is expected", bodies[1].Start}
	}
	mapping, ok := bodies[0].Body.(*ast.MappingNode)
	if !ok {
		if _, comment := bodies[0].Body.(*ast.CommentGroupNode); comment {
			return configValues{}, nil
		}
		return nil, &configError{"lines of the form \"name: value\" are expected", bodies[0].Body.GetToken()}
	}
	fields := configFields(reflect.TypeFor[runFlags]())
	values = configValues{}
	for _, entry := range mapping.Values {
		key := entry.Key.GetToken()
		field, ok := fields[key.Value]
		if slices.Contains(commandLineOnly, key.Value) {
			return nil, &configError{fmt.Sprintf("%s is an option of the command line only; leave it out here and give it there, as --%s", key.Value, key.Value), key}
		}
		if !ok {
			return nil, &configError{fmt.Sprintf("unknown key %q; the keys are the names of the options in surgeon prune --help", key.Value), key}
		}
		if values[key.Value], err = configValue(key.Value, field, entry.Value); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// configFields are the fields of a struct, embedded ones included, by their names in YAML, which are those of their flags.
func configFields(t reflect.Type) map[string]reflect.StructField {
	fields := map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(t) {
		if name := f.Tag.Get("yaml"); f.IsExported() && name != "" && name != "-" {
			fields[name] = f
		}
	}
	return fields
}

// configValue is the value of one key, checked against the type of its option.
func configValue(name string, field reflect.StructField, node ast.Node) (any, error) {
	wrong := func(expected string) error {
		return &configError{fmt.Sprintf("%s is %s; %s is expected", name, described(node), expected), node.GetToken()}
	}
	if field.Type.Kind() == reflect.Pointer { // an option that may be left open
		field.Type = field.Type.Elem()
	}
	if v, ok := reflect.New(field.Type).Interface().(encoding.TextUnmarshaler); ok {
		text, ok := node.(*ast.StringNode)
		if !ok {
			return nil, wrong("a word")
		}
		if err := v.UnmarshalText([]byte(text.Value)); err != nil {
			return nil, &configError{fmt.Sprintf("%s: %v", name, err), node.GetToken()}
		}
		return text.Value, nil
	}
	switch field.Type.Kind() {
	case reflect.String:
		if text, ok := node.(*ast.StringNode); ok {
			if words, limited := field.Tag.Lookup("enum"); limited && !slices.Contains(strings.Split(words, ","), text.Value) {
				return nil, wrong("one of " + strings.Join(strings.FieldsFunc(words, func(r rune) bool { return r == ',' }), ", "))
			}
			return text.Value, nil
		}
		return nil, wrong("a text")
	case reflect.Bool:
		if on, ok := node.(*ast.BoolNode); ok {
			return on.Value, nil
		}
		return nil, wrong("true or false")
	case reflect.Int, reflect.Int64:
		if n, ok := node.(*ast.IntegerNode); ok {
			switch x := n.Value.(type) {
			case int64:
				return x, nil
			case uint64:
				if x <= math.MaxInt64 {
					return int64(x), nil
				}
			}
		}
		return nil, wrong("a whole number")
	case reflect.Uint64:
		if n, ok := node.(*ast.IntegerNode); ok {
			if x, ok := n.Value.(uint64); ok {
				return x, nil
			}
		}
		return nil, wrong("a whole number, not negative,")
	case reflect.Float64:
		switch n := node.(type) {
		case *ast.FloatNode:
			return n.Value, nil
		case *ast.IntegerNode:
			return n.Value, nil
		case *ast.StringNode: // 1e-4, which is a number in YAML 1.2 and not in 1.1; not in quotes
			if x, err := strconv.ParseFloat(n.Value, 64); err == nil && n.Token.Type == token.StringType && !math.IsInf(x, 0) && !math.IsNaN(x) {
				return x, nil
			}
		}
		return nil, wrong("a number")
	case reflect.Slice:
		list, ok := node.(*ast.SequenceNode)
		if !ok {
			if field.Type.Elem().Kind() == reflect.Float64 {
				return nil, wrong("a list, as in [0.1, 0.2],")
			}
			return nil, wrong("a list, as in [a.txt, b.txt],")
		}
		values := []any{}
		for _, item := range list.Values {
			element, expected := field, "texts are expected"
			if element.Type = field.Type.Elem(); element.Type.Kind() == reflect.Float64 {
				expected = "numbers are expected"
			}
			value, err := configValue(name, element, item)
			if err != nil {
				return nil, &configError{fmt.Sprintf("%s holds %s; %s", name, described(item), expected), item.GetToken()}
			}
			values = append(values, value)
		}
		return values, nil
	}
	return nil, fmt.Errorf("the option %s has the type %v, which YAML files are not prepared for", name, field.Type)
}

// described names what stands in a file.
func described(n ast.Node) string {
	switch n := n.(type) {
	case *ast.NullNode:
		return "empty"
	case *ast.StringNode:
		return fmt.Sprintf("the text %q", n.Value)
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	}
	return n.GetToken().Value
}
