package text

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

// checkFooter refuses a Parquet file whose last bytes promise a longer footer than there is room for: the library takes
// memory for it first, up to 4 GiB. The file ends in the footer, its length in 4 bytes, and "PAR1".
func checkFooter(data []byte) error {
	const around = 4 + 4 + 4 // "PAR1" at the beginning, length and "PAR1" at the end
	if len(data) < around {
		return fmt.Errorf("this is no Parquet file: it has %d bytes only", len(data))
	}
	if said := binary.LittleEndian.Uint32(data[len(data)-8:]); int64(said) > int64(len(data)-around) {
		return fmt.Errorf("this is no Parquet file, or it is damaged: it promises a footer of %d bytes and has %d in all", said, len(data))
	}
	return nil
}

// checkPages looks through the pages of one column of a Parquet file, and refuses what would take more memory than bytesMax
// for one page, or more than the file says it does. The library that reads them trusts what a page says of itself and decompresses to
// the end of the data: a file of some kilobytes could take all memory there is. Nothing is kept here.
func checkPages(data []byte, column *format.ColumnMetaData, bytesMax int64) error {
	begin := column.DataPageOffset
	if column.DictionaryPageOffset != 0 {
		begin = column.DictionaryPageOffset
	}
	size := int64(len(data))
	if begin < 0 || begin > size || column.TotalCompressedSize < 0 || column.TotalCompressedSize > size-begin {
		return fmt.Errorf("the Parquet file is damaged: %d bytes at %d lie outside its %d", column.TotalCompressedSize, begin, size)
	}
	in := bytes.NewReader(data[begin : begin+column.TotalCompressedSize])
	protocol := new(thrift.CompactProtocol)
	for in.Len() > 0 {
		var header format.PageHeader
		if err := thrift.NewDecoder(protocol.NewReader(in)).Decode(&header); err != nil {
			return fmt.Errorf("the Parquet file is damaged: header of a page: %w", err)
		}
		if header.CompressedPageSize < 0 || int(header.CompressedPageSize) > in.Len() {
			return fmt.Errorf("the Parquet file is damaged: a page of %d bytes where %d are left", header.CompressedPageSize, in.Len())
		}
		page := make([]byte, header.CompressedPageSize)
		if _, err := io.ReadFull(in, page); err != nil {
			return err
		}
		if err := checkPage(page, &header, column.Codec, bytesMax); err != nil {
			return err
		}
	}
	return nil
}

// checkPage refuses a page that would take more than bytesMax, or more than it says.
func checkPage(page []byte, header *format.PageHeader, codec format.CompressionCodec, bytesMax int64) error {
	said, values := int64(header.UncompressedPageSize), int64(0)
	switch {
	case header.DataPageHeader.Valid:
		values = int64(header.DataPageHeader.V.NumValues)
	case header.DictionaryPageHeader.Valid:
		values = int64(header.DictionaryPageHeader.V.NumValues)
	case header.DataPageHeaderV2.Valid:
		v2 := &header.DataPageHeaderV2.V
		values = int64(v2.NumValues)
		levels := int64(v2.RepetitionLevelsByteLength) + int64(v2.DefinitionLevelsByteLength) // these are never compressed
		if levels < 0 || levels > int64(len(page)) || levels > said {
			return fmt.Errorf("the Parquet file is damaged: %d bytes of levels in a page of %d", levels, len(page))
		}
		page, said = page[levels:], said-levels
		if v2.IsCompressed.Valid && !v2.IsCompressed.V {
			codec = format.Uncompressed
		}
	}
	if said < 0 || values < 0 {
		return fmt.Errorf("the Parquet file is damaged: a page of %d bytes and %d values", said, values)
	}
	// Each value takes an index or an offset of 4 bytes, however few bytes a run of equal ones has in the file.
	if said+4*values > bytesMax {
		return tooLong(bytesMax)
	}
	unpacked, err := unpacker(codec, page, said)
	if err != nil {
		return fmt.Errorf("the Parquet file is damaged: a page cannot be decompressed: %w", err)
	}
	if unpacked == nil {
		return nil
	}
	defer unpacked.Close()
	n, err := io.Copy(io.Discard, io.LimitReader(unpacked, said+1))
	if err != nil {
		return fmt.Errorf("the Parquet file is damaged: a page cannot be decompressed: %w", err)
	}
	if n > said {
		return fmt.Errorf("the Parquet file is damaged: a page has more than the %d bytes it says", said)
	}
	return nil
}

// unpacker decompresses a page piece by piece. It is nil where there is nothing to look for: in what is not compressed, in
// Snappy, whose size stands before the data and is kept to, and in an LZ4 block that has been found to fit.
func unpacker(codec format.CompressionCodec, page []byte, said int64) (io.ReadCloser, error) {
	if len(page) == 0 {
		return nil, nil
	}
	in := bytes.NewReader(page)
	switch codec {
	case format.Gzip:
		return gzip.NewReader(in)
	case format.Zstd:
		out, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return out.IOReadCloser(), nil
	case format.Brotli:
		return io.NopCloser(brotli.NewReader(in)), nil
	case format.Lz4Raw:
		// The library doubles its memory until the block fits, and a damaged one never does. A byte stands for 255 at most.
		_, err := lz4.UncompressBlock(page, make([]byte, min(said, 255*int64(len(page)))))
		return nil, err
	}
	return nil, nil
}
