;; world: lacking
;; instead: wrong.wit
;; Exports the right interface without its function.
(func (export "gapura:plugin/prompt-template@0.1.0#draw"))
