package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/parquet-go/parquet-go"
)

// textField is the field of a JSON line and the column of a Parquet file that hold a document's text.
const textField = "text"

// readLines hands on the documents of a .jsonl file.
func readLines(data []byte, add func(string) error) error {
	for number := 1; len(data) > 0; number++ {
		line := data
		if end := bytes.IndexByte(data, '\n'); end >= 0 {
			line, data = data[:end], data[end+1:]
		} else {
			data = nil
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if err := checkText(string(line)); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(line, &fields); err != nil {
			return fmt.Errorf("line %d is not a JSON object: %w", number, plain(err))
		}
		raw, ok := fields[textField]
		if !ok {
			return fmt.Errorf("line %d has no field %q", number, textField)
		}
		var document *string
		if err := json.Unmarshal(raw, &document); err != nil || document == nil {
			return fmt.Errorf("line %d: the field %q is %.40s, want a string", number, textField, raw)
		}
		if strings.ContainsRune(*document, 0) {
			return fmt.Errorf("line %d: the field %q contains NUL; this is no text", number, textField)
		}
		if err := add(*document); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	return nil
}

// readParquet hands on the column "text". The library panics on some damaged files; that is an error here.
func readParquet(data []byte, bytesMax int64, add func(string) error) (err error) {
	defer func() {
		if trouble := recover(); trouble != nil {
			err = fmt.Errorf("the Parquet file is damaged: %v", trouble)
		}
	}()
	if err := checkFooter(data); err != nil {
		return err
	}
	file, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return fmt.Errorf("this is no Parquet file, or it is damaged: %w", err)
	}
	column, ok := file.Schema().Lookup(textField)
	if !ok {
		var names []string
		for _, path := range file.Schema().Columns() {
			names = append(names, strings.Join(path, "."))
		}
		return fmt.Errorf("there is no column %q; the columns are %s", textField, strings.Join(names, ", "))
	}
	if kind := column.Node.Type().Kind(); kind != parquet.ByteArray || column.Node.Repeated() {
		return fmt.Errorf("the column %q holds %v, want one string in each row", textField, column.Node.Type())
	}
	row := int64(0)
	for i, group := range file.RowGroups() {
		if err := checkPages(data, &file.Metadata().RowGroups[i].Columns[column.ColumnIndex].MetaData, bytesMax); err != nil {
			return fmt.Errorf("row %d or later: %w", row, err)
		}
		if err := readChunk(group.ColumnChunks()[column.ColumnIndex], &row, add); err != nil {
			return err
		}
	}
	if want := file.NumRows(); row != want {
		return fmt.Errorf("the Parquet file is damaged: it says %d rows, but its column %q has %d", want, textField, row)
	}
	return nil
}

func readChunk(chunk parquet.ColumnChunk, row *int64, add func(string) error) error {
	pages := chunk.Pages()
	defer pages.Close()
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("row %d or later: %w", *row, err)
		}
		err = readPage(page, row, add)
		parquet.Release(page)
		if err != nil {
			return err
		}
	}
}

func readPage(page parquet.Page, row *int64, add func(string) error) error {
	values := make([]parquet.Value, 256)
	in := page.Values()
	for {
		n, err := in.ReadValues(values)
		for _, value := range values[:n] {
			if value.IsNull() {
				return fmt.Errorf("row %d has no %q (null)", *row, textField)
			}
			document := string(value.ByteArray())
			if err := checkText(document); err != nil {
				return fmt.Errorf("row %d: %w", *row, err)
			}
			if err := add(document); err != nil {
				return fmt.Errorf("row %d: %w", *row, err)
			}
			*row++
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("row %d: %w", *row, err)
		}
		if n == 0 {
			return fmt.Errorf("row %d: the page ends early", *row)
		}
	}
}
