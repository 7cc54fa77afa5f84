// Package engine prunes language models. DOC
package engine
