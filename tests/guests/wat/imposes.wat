;; world: template
;; Renders one letter and imposes a schema: an object whose `kota` is `Solo`.
;;
;; A prompt @4: segments, stop strings @12, grammar's option u8 @20, kind u8 @24, text @28.
(data (i32.const 1024) "\00\00\00\00\80\04\00\00\01\00\00\00")
(data (i32.const 1152) "a")
(data (i32.const 1280) "{\22type\22:\22object\22,\22properties\22:{\22kota\22:{\22enum\22:[\22Solo\22]}},\22required\22:[\22kota\22],\22additionalProperties\22:false}")
(func (export "gapura:plugin/prompt-template@0.1.0#render") (param i32) (result i32)
  (i32.store (i32.const 4) (i32.const 1024))
  (i32.store (i32.const 8) (i32.const 1))
  (i32.store8 (i32.const 20) (i32.const 1))
  (i32.store (i32.const 28) (i32.const 1280))
  (i32.store (i32.const 32) (i32.const 106))
  (i32.const 0))
