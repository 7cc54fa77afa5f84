package report

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"strings"
)

// finite looks for a NaN or an infinity in v, which JSON cannot carry, and names the first by its path in the JSON.
func finite(v any) error {
	var path []string
	var walk func(v reflect.Value) error
	inside := func(step string, v reflect.Value) error {
		path = append(path, step)
		err := walk(v)
		path = path[:len(path)-1]
		return err
	}
	walk = func(v reflect.Value) error {
		switch v.Kind() {
		case reflect.Float32, reflect.Float64:
			if x := v.Float(); math.IsNaN(x) || math.IsInf(x, 0) {
				return fmt.Errorf("%s is %v; a report holds only finite figures", strings.TrimPrefix(strings.Join(path, ""), "."), x)
			}
		case reflect.Pointer, reflect.Interface:
			if !v.IsNil() {
				return walk(v.Elem())
			}
		case reflect.Struct:
			for i := range v.NumField() {
				f := v.Type().Field(i)
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if !f.IsExported() || name == "-" {
					continue
				}
				if name == "" {
					name = f.Name
				}
				if err := inside("."+name, v.Field(i)); err != nil {
					return err
				}
			}
		case reflect.Slice, reflect.Array:
			for i := range v.Len() {
				if err := inside(fmt.Sprintf("[%d]", i), v.Index(i)); err != nil {
					return err
				}
			}
		case reflect.Map:
			for _, k := range v.MapKeys() {
				if err := inside(fmt.Sprintf(".%v", k), v.MapIndex(k)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return walk(reflect.ValueOf(v))
}

// joinNumbers puts each list of plain numbers in indented JSON on one line: a list of kept rows has thousands, and a report
// with one per line cannot be read by anyone.
func joinNumbers(indented []byte) []byte {
	out := make([]byte, 0, len(indented))
	for i := 0; i < len(indented); {
		switch c := indented[i]; c {
		case '"': // a string is copied whole, whatever it looks like
			end := i + 1
			for indented[end] != '"' {
				if indented[end] == '\\' {
					end++
				}
				end++
			}
			out = append(out, indented[i:end+1]...)
			i = end + 1
		case '[':
			n := bytes.IndexFunc(indented[i+1:], func(r rune) bool { return !strings.ContainsRune("0123456789+-.eE, \n", r) })
			if list := indented[i+1 : i+1+n]; indented[i+1+n] == ']' && len(list) > 0 {
				out = append(out, '[')
				out = append(out, strings.Join(strings.Fields(string(list)), " ")...)
				out = append(out, ']')
				i += n + 2
				continue
			}
			fallthrough
		default:
			out = append(out, c)
			i++
		}
	}
	return out
}
