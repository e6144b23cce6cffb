import java.io.Reader;
import java.util.Arrays;
import java.util.List;
import javax.script.AbstractScriptEngine;
import javax.script.Bindings;
import javax.script.ScriptContext;
import javax.script.ScriptEngine;
import javax.script.ScriptEngineFactory;
import javax.script.SimpleBindings;

/**
 * Takes the place of the engine "JavaScript", which Java lost in version 15. SPICE 1.0 needs it for one thing:
 * to indent the JSON text `jsonString` into `result`. Here the text stays as it is.
 *
 * PlainJson.class beside this file was made by: javac --release 8 -g:none PlainJson.java (version 17)
 */
public class PlainJson extends AbstractScriptEngine implements ScriptEngineFactory {
    @Override public Object eval(String script, ScriptContext context) {
        put("result", get("jsonString"));
        return null;
    }

    @Override public List<String> getNames() { return Arrays.asList("JavaScript"); }
    @Override public ScriptEngine getScriptEngine() { return this; }
    @Override public ScriptEngineFactory getFactory() { return this; }

    // What the interfaces want and nobody asks for.
    @Override public Object eval(Reader script, ScriptContext context) { throw new UnsupportedOperationException(); }
    @Override public Bindings createBindings() { return new SimpleBindings(); }
    @Override public List<String> getExtensions() { return Arrays.asList(); }
    @Override public List<String> getMimeTypes() { return Arrays.asList(); }
    @Override public String getEngineName() { return "PlainJson"; }
    @Override public String getEngineVersion() { return "1"; }
    @Override public String getLanguageName() { return "none"; }
    @Override public String getLanguageVersion() { return "1"; }
    @Override public Object getParameter(String key) { return null; }
    @Override public String getMethodCallSyntax(String object, String method, String... arguments) { return null; }
    @Override public String getOutputStatement(String text) { return null; }
    @Override public String getProgram(String... statements) { return null; }
}
